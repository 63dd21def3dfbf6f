"""A transformer in loops over tokens, heads and channels, written from the papers; it imports nothing of pymoe.

Every vector is a Python list, every sum a loop: slow, and as plain as the formulas.  ``p`` is a parameter tree of
nested dicts, ``cfg`` any object with the settings.  An expert layer is softmax, the k largest, renormalised (Mixtral,
arXiv:2401.04088, section 2.1), with the balance loss of arXiv:2101.03961, eq. 4 to 6 (f over all k choices) and the
z-loss of arXiv:2202.08906, eq. 5.
"""

from __future__ import annotations

import math


def matvec(w, x, bias=None):
    out = [sum(w[i][j] * x[j] for j in range(len(x))) for i in range(len(w))]
    return out if bias is None else [o + b for o, b in zip(out, bias, strict=True)]


def softmax(z):
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def normalise(x, p, cfg):
    n = len(x)
    if cfg.norm == "rms":  # arXiv:1910.07467, eq. 4
        root = math.sqrt(sum(v * v for v in x) / n + cfg.norm_eps)
        return [v / root * float(g) for v, g in zip(x, p["weight"], strict=True)]
    mean = sum(x) / n  # arXiv:1607.06450, eq. 4
    root = math.sqrt(sum((v - mean) ** 2 for v in x) / n + cfg.norm_eps)
    return [(v - mean) / root * float(g) + float(b) for v, g, b in zip(x, p["weight"], p["bias"], strict=True)]


def rotate(x, position, base):
    """Channels i and i + d/2 as one complex number, turned by position / base^(2i/d) (arXiv:2104.09864, eq. 15)."""
    if base is None:
        return list(x)
    half = len(x) // 2
    out = [0.0] * len(x)
    for i in range(half):
        angle = position / base ** (2 * i / len(x))
        z = complex(x[i], x[i + half]) * complex(math.cos(angle), math.sin(angle))
        out[i], out[i + half] = z.real, z.imag
    return out


def act(name, v):
    if name == "silu":
        return v / (1 + math.exp(-v))
    if name == "gelu":
        return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))
    if name == "relu":
        return max(v, 0.0)
    raise NotImplementedError(name)


def feed_forward(x, p, gated, activation, e=None):
    def part(name):
        if name not in p:
            return None
        return p[name] if e is None else p[name][e]

    if gated:
        z = matvec(part("gate_up_proj"), x, part("gate_up_proj_bias"))
        half = len(z) // 2
        h = [act(activation, z[i]) * z[i + half] for i in range(half)]
    else:
        h = [act(activation, v) for v in matvec(part("up_proj"), x, part("up_proj_bias"))]
    return matvec(part("down_proj"), h, part("down_proj_bias"))


def experts(rows, p, moe, real):
    """(outputs, {"balance", "z"}) of one MoE layer over all tokens of the batch; padding gets 0 and counts nowhere."""
    e, k = moe.n_experts, moe.k
    outputs, probabilities, logsumexps, counts = [], [], [], [0] * e
    for x, is_real in zip(rows, real, strict=True):
        if not is_real:
            outputs.append([0.0] * len(x))
            continue
        z = matvec(p["router"]["weight"], x)
        s = softmax(z)
        chosen = sorted(range(e), key=lambda i: -s[i])[:k]  # stable: the lowest id among equals
        total = sum(s[i] for i in chosen)
        y = [0.0] * len(x)
        for i in chosen:
            counts[i] += 1
            o = feed_forward(x, p["experts"], moe.gated, moe.activation, i)
            y = [a + s[i] / total * b for a, b in zip(y, o, strict=True)]
        outputs.append(y)
        probabilities.append(s)
        logsumexps.append(max(z) + math.log(sum(math.exp(v - max(z)) for v in z)))
    t = len(probabilities)
    f = [c / (k * t) for c in counts]
    mean_p = [sum(s[i] for s in probabilities) / t for i in range(e)]
    balance = e * sum(a * b for a, b in zip(f, mean_p, strict=True))
    return outputs, {"balance": balance, "z": sum(v * v for v in logsumexps) / t}


def heads(x, p, name, n, d, offset=0):
    """The n heads of width d that begin at row ``offset`` of the projection ``name``."""
    bias = p.get(f"{name}_bias")
    y = matvec(p[name], x, bias)[offset : offset + n * d]
    return [y[h * d : (h + 1) * d] for h in range(n)]


def attend(q, keys, values, scale, biases=None):
    """One query over the visible keys; none visible gives 0."""
    if not keys:
        return [0.0] * len(q)
    scale = 1 / math.sqrt(len(q)) if scale is None else scale
    biases = [0.0] * len(keys) if biases is None else biases
    w = softmax([scale * sum(a * b for a, b in zip(q, k, strict=True)) + c for k, c in zip(keys, biases, strict=True)])
    return [sum(w[j] * values[j][c] for j in range(len(keys))) for c in range(len(values[0]))]


def sizes(cfg):
    g = cfg.n_heads if cfg.n_kv_heads is None else cfg.n_kv_heads
    d = cfg.d_model // cfg.n_heads if cfg.head_dim is None else cfg.head_dim
    return cfg.n_heads, g, d


def bucket(distance, cfg, causal):
    """T5's bucket of key minus query (arXiv:1910.10683, section 2.1), with the logarithm as it is written."""
    n, offset = (cfg.buckets, 0) if causal else (cfg.buckets // 2, cfg.buckets // 2 if distance > 0 else 0)
    r = max(-distance, 0) if causal else abs(distance)
    exact = n // 2
    if r < exact:
        return offset + r
    wide = math.log(r / exact) / math.log(cfg.max_distance / exact) * (n - exact)
    return offset + min(exact + int(wide + 1e-12), n - 1)


def self_attention(rows, p, cfg, causal, real, table=None):
    """Rows of one sequence."""
    h, g, d = sizes(cfg)
    q = [[rotate(v, s, cfg.rope_base) for v in heads(x, p, "qkv_proj", h, d)] for s, x in enumerate(rows)]
    k = [[rotate(v, s, cfg.rope_base) for v in heads(x, p, "qkv_proj", g, d, h * d)] for s, x in enumerate(rows)]
    v = [heads(x, p, "qkv_proj", g, d, (h + g) * d) for x in rows]
    out = []
    for i in range(len(rows)):
        seen = [j for j in range(len(rows)) if real[j] and (j <= i or not causal)]
        o = []
        for a in range(h):
            group = a // (h // g)
            biases = None if table is None else [float(table[bucket(j - i, cfg.relative, causal)][a]) for j in seen]
            keys, values = [k[j][group] for j in seen], [v[j][group] for j in seen]
            o += attend(q[i][a], keys, values, cfg.attention_scale, biases)
        out.append(matvec(p["o_proj"], o, p.get("o_proj_bias")))
    return out


def cross_attention(rows, p, cfg, memory, real):
    h, g, d = sizes(cfg)
    k = [heads(m, p, "kv_proj", g, d) for m in memory]
    v = [heads(m, p, "kv_proj", g, d, g * d) for m in memory]
    seen = [j for j in range(len(memory)) if real[j]]
    out = []
    for x in rows:
        q = heads(x, p, "q_proj", h, d)
        o = []
        for a in range(h):
            group = a // (h // g)
            o += attend(q[a], [k[j][group] for j in seen], [v[j][group] for j in seen], cfg.attention_scale)
        out.append(matvec(p["o_proj"], o, p.get("o_proj_bias")))
    return out


def added(a, b, factor):
    return [[u + factor * v for u, v in zip(x, y, strict=True)] for x, y in zip(a, b, strict=True)]


def stack(batch, p, cfg, sparse, causal, real, memory=None, memory_real=None):
    """(rows after the last norm, [losses of each sparse layer]) for a batch of sequences of vectors."""
    losses, residual = [], cfg.multipliers.residual
    table = p["relative_bias"]["weight"] if "relative_bias" in p else None
    for i in range(len(p["layers"])):
        q = p["layers"][str(i)]
        for b, rows in enumerate(batch):
            n = [normalise(x, q["input_layernorm"], cfg) for x in rows]
            batch[b] = rows = added(rows, self_attention(n, q["self_attn"], cfg, causal, real[b], table), residual)
            if memory is not None:
                n = [normalise(x, q["cross_attn_layernorm"], cfg) for x in rows]
                o = cross_attention(n, q["cross_attn"], cfg, memory[b], memory_real[b])
                batch[b] = added(rows, o, residual)
        tokens = [normalise(x, q["post_attention_layernorm"], cfg) for rows in batch for x in rows]
        if i in sparse:
            outputs, layer = experts(tokens, q["mlp"], cfg.moe, [r for row in real for r in row])
            losses.append(layer)
        else:
            outputs = [feed_forward(x, q["mlp"], cfg.gated, cfg.activation) for x in tokens]
        n = 0
        for b, rows in enumerate(batch):
            batch[b] = added(rows, outputs[n : n + len(rows)], residual)
            n += len(rows)
    return [[normalise(x, p["norm"], cfg) for x in rows] for rows in batch], losses


def embed(ids, table, cfg):
    return [[[cfg.multipliers.embedding * float(v) for v in table[int(i)]] for i in row] for row in ids]


def said(head, x, cfg, bias=None):
    """The logits of one row."""
    return matvec(head, [cfg.multipliers.logits * v for v in x], bias)


def averaged(losses):
    return {name: sum(layer[name] for layer in losses) / len(losses) for name in (losses[0] if losses else {})}


def cross_entropy(rows, targets, smoothing=0.0):
    """Mean over the targets that are not -100; smoothed: target (1 - α) onehot + α / V (arXiv:1512.00567)."""
    total, n = 0.0, 0
    for z, t in zip(rows, targets, strict=True):
        if t == -100:
            continue
        lse = max(z) + math.log(sum(math.exp(v - max(z)) for v in z))
        for c, v in enumerate(z):
            total += ((1 - smoothing) * (c == t) + smoothing / len(z)) * (lse - v)
        n += 1
    return total / n if n else 0.0


def all_real(ids, mask):
    return [[True] * len(row) for row in ids] if mask is None else mask.tolist()


def language_model(ids, p, cfg, sparse, targets=None, mask=None):
    real = all_real(ids, mask)
    table = p["embed_tokens"]["weight"]
    y, layer_losses = stack(embed(ids, table, cfg), p, cfg, sparse, True, real)
    head = table if cfg.tie else p["lm_head"]["weight"]
    logits = [[said(head, x, cfg) for x in rows] for rows in y]
    losses = averaged(layer_losses)
    if targets is not None:
        wanted = [
            t if r else -100 for row, reals in zip(targets, real, strict=True) for t, r in zip(row, reals, strict=True)
        ]
        losses["lm"] = cross_entropy([z for rows in logits for z in rows], wanted, cfg.label_smoothing)
    return logits, losses


def classifier(ids, p, cfg, sparse, targets=None, mask=None):
    real = all_real(ids, mask)
    y, layer_losses = stack(embed(ids, p["embed_tokens"]["weight"], cfg), p, cfg, sparse, False, real)
    logits = []
    for rows, reals in zip(y, real, strict=True):
        kept = [x for x, r in zip(rows, reals, strict=True) if r]
        mean = [sum(x[c] for x in kept) / len(kept) if kept else 0.0 for c in range(cfg.d_model)]
        logits.append(said(p["classifier"]["weight"], mean, cfg, p["classifier"]["bias"]))
    losses = averaged(layer_losses)
    if targets is not None:
        losses["classify"] = cross_entropy(logits, targets, cfg.label_smoothing)
    return logits, losses


def encoder_decoder(ids, p, cfg, sparse, decoder_ids, targets=None, mask=None, decoder_mask=None):
    """``sparse``: (encoder layers, decoder layers)."""
    real, decoder_real = all_real(ids, mask), all_real(decoder_ids, decoder_mask)
    target = p["decoder"]["embed_tokens"]["weight"]
    source = target if cfg.share_embeddings else p["encoder"]["embed_tokens"]["weight"]
    memory, first = stack(embed(ids, source, cfg), p["encoder"], cfg, sparse[0], False, real)
    y, second = stack(embed(decoder_ids, target, cfg), p["decoder"], cfg, sparse[1], True, decoder_real, memory, real)
    head = target if cfg.tie else p["lm_head"]["weight"]
    logits = [[said(head, x, cfg) for x in rows] for rows in y]
    losses = averaged(first + second)
    if targets is not None:
        wanted = [
            t if r else -100
            for row, reals in zip(targets, decoder_real, strict=True)
            for t, r in zip(row, reals, strict=True)
        ]
        losses["seq2seq"] = cross_entropy([z for rows in logits for z in rows], wanted, cfg.label_smoothing)
    return logits, losses
