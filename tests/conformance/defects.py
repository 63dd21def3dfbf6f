"""What was found wrong in other implementations: each with the lines that show it and what they print."""

from __future__ import annotations

from pymoe.verify.conformance.rows import Defect

DEFECTS: tuple[Defect, ...] = (
    Defect(
        "transformers 5.23.0: `nllb_moe` runs two of its experts",
        "`F.one_hot` is applied to a mask that is one-hot already, so every token is sent to expert 0 or "
        "1, whatever the router says. pymoe sends a token to the experts that its router chose.",
        """
import torch
from transformers import NllbMoeConfig
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP
torch.manual_seed(0)
cfg = NllbMoeConfig(d_model=8, num_experts=4, expert_capacity=32)
block, ran = NllbMoeSparseMLP(cfg, ffn_dim=12).eval(), {}
for name, expert in block.experts.items():
    expert.register_forward_hook(lambda m, x, y, name=name: ran.update({name: len(x[0])}))
x = torch.randn(1, 16, 8)
block(x)
print("should run", block.router.classifier(x[0]).argmax(1).bincount(minlength=4).tolist(), "ran", ran)
""",
        """
should run [4, 3, 4, 5] ran {'expert_0': 48, 'expert_1': 16}
""",
    ),
    Defect(
        "transformers 5.23.0: `doge` mixes tokens",
        "`view(2, B·S, -1)` on (B, S, 2√E) scores splits the batch instead of the halves of a query, so a "
        "token is routed by another's logits and an earlier token changes with a later one. "
        "`pymoe.moe.rules.product_keys` splits the query (arXiv:1907.05242).",
        """
import torch
from transformers import DogeConfig
from transformers.models.doge.modeling_doge import DogeCDMoE
torch.manual_seed(0)
cfg = DogeConfig(hidden_size=8, intermediate_size=12, num_experts=16, num_experts_per_tok=2, is_moe=True)
block = DogeCDMoE(cfg)
x = torch.randn(1, 8, 8)
y = block(x)[0]
x[0, 7] += 1
print("tokens that change when only token 7 does:", [t for t in range(8) if (block(x)[0] - y)[0, t].abs().max() > 0])
""",
        """
tokens that change when only token 7 does: [6, 7]
""",
    ),
    Defect(
        "transformers 5.23.0: the balance loss of 30 models calls collapse balanced",
        "Counts and probabilities are summed over all layers before they are multiplied, so layers that "
        "collapse on different experts cancel. pymoe's losses are of one layer; the sum over layers is "
        "the caller's.",
        """
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
def collapsed(expert):  # 8 tokens, all of them on one of 4 experts
    return torch.nn.functional.one_hot(torch.full((8,), expert), 4) * 50.0
print("one layer:", load_balancing_loss_func((collapsed(0),), 4, 1).item())
print("four layers:", load_balancing_loss_func(tuple(collapsed(e) for e in range(4)), 4, 1).item())
""",
        """
one layer: 4.0
four layers: 1.0
""",
    ),
    Defect(
        "transformers 5.23.0: jitter is multiplied into the caller's tensor",
        "`hidden_states *= ...` in training changes what the residual stream adds, and the experts' "
        "input; the paper (arXiv:2101.03961) has it on the router's input only. The same line is in "
        "`minimax`, `minimax_m2` and `phimoe` (there twice).",
        """
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
torch.manual_seed(0)
cfg = MixtralConfig(hidden_size=8, intermediate_size=12, num_local_experts=4, router_jitter_noise=0.1)
block, x = MixtralSparseMoeBlock(cfg).train(), torch.ones(1, 3, 8)
for p in block.parameters():
    torch.nn.init.normal_(p)
block(x)
print("the caller's tensor of ones afterwards:", [round(v, 3) for v in x[0, 0, :4].tolist()])
""",
        """
the caller's tensor of ones afterwards: [0.936, 0.919, 0.982, 1.078]
""",
    ),
    Defect(
        "transformers 5.23.0: `axk2` chooses forbidden groups",
        "Experts outside the chosen groups are masked with 0.0 instead of -inf, so with a negative "
        "selection bias they win; a bias that is the same for all experts changes the choice. pymoe masks "
        "with -inf (arXiv:2412.19437).",
        """
import torch
from types import SimpleNamespace
from transformers.models.axk2.modeling_axk2 import AXK2TopkRouter
scores = torch.tensor([[0.3, 0.2, 0.25, 0.1]])  # sigmoid scores of two groups of two
bias = torch.full((4,), -0.5)  # a bias that is the same for all experts must change nothing
router = SimpleNamespace(num_group=2, num_experts=4, topk_group=1)
for b in (0 * bias, bias):
    masked = AXK2TopkRouter.apply_group_scoring(router, scores + b)
    print("chosen, where the group of 0 and 1 is the best:", masked.topk(2).indices[0].sort().values.tolist())
""",
        """
chosen, where the group of 0 and 1 is the best: [0, 1]
chosen, where the group of 0 and 1 is the best: [2, 3]
""",
    ),
    Defect(
        "transformers 5.23.0: `longcat_flash` ignores its router bias",
        "`router_bias=True` makes a parameter that forward never reads, so it has no effect and no gradient.",
        """
import torch
from transformers import LongcatFlashConfig
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashTopkRouter
torch.manual_seed(0)
cfg = LongcatFlashConfig(hidden_size=8, n_routed_experts=4, zero_expert_num=2, moe_topk=2, router_bias=True)
router, x = LongcatFlashTopkRouter(cfg), torch.randn(1, 3, 8)
torch.nn.init.normal_(router.classifier.weight), torch.nn.init.zeros_(router.e_score_correction_bias)
before = router(x)[1]
torch.nn.init.normal_(router.classifier.bias, std=100)
print("a bias of deviation 100 on the logits changes the weights:", not torch.equal(before, router(x)[1]))
""",
        """
a bias of deviation 100 on the logits changes the weights: False
""",
    ),
    Defect(
        "transformers 5.23.0: √softplus has NaN gradients",
        "The square root of a softplus that underflows is 0, its derivative infinite, and infinity times "
        "a cotangent of 0 is NaN: one logit below -104 poisons the router, even of an expert that nobody "
        "chose (`deepseek_v4`, `inkling2`). pymoe has dz = σ(z) / (2 s), which tends to e^(z/2) / 2.",
        """
import torch
from transformers.activations import ACT2FN
z = torch.tensor([1.0, -110.0], requires_grad=True)
s = ACT2FN["sqrtsoftplus"](z)
s[0].backward()  # only the score of the first expert is used
print("gradient of the logits:", z.grad.tolist())
""",
        """
gradient of the logits: [0.3189675807952881, nan]
""",
    ),
    Defect(
        "transformers 5.23.0: `nllb_moe` writes into the logits and remembers a capacity",
        'The policy "sampling" adds its noise in place, so the logits that go into the z-loss are other '
        "ones; and the capacity of the first training batch is kept for all later ones. pymoe writes into "
        "nothing it did not allocate, and counts places from the tokens it has.",
        """
import torch
from transformers import NllbMoeConfig
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router
torch.manual_seed(0)
router = NllbMoeTop2Router(NllbMoeConfig(d_model=8, num_experts=4, second_expert_policy="sampling")).train()
router.expert_capacity, z = None, torch.zeros(3, 4)  # None: 2 ceil(T / E) of each batch
router.route_tokens(z)
print("logits of zeros afterwards:", [round(v, 3) for v in z[0].tolist()])
router.route_tokens(torch.zeros(400, 4))
print("places for 400 tokens on 4 experts:", router.expert_capacity)
""",
        """
logits of zeros afterwards: [-0.553, -0.27, -0.638, -1.239]
places for 400 tokens on 4 experts: 2
""",
    ),
    Defect(
        "transformers 5.23.0: `inkling` without shared experts",
        "`[..., :-n]` is empty for n = 0, so `n_shared_experts=0` cannot run.",
        """
import torch
from transformers.models.inkling import modeling_inkling as m
config = m.InklingTextConfig(hidden_size=8, n_routed_experts=4, n_shared_experts=0, num_experts_per_tok=2)
router = m.InklingTopkRouter(config)
torch.nn.init.normal_(router.weight)
try:
    router(torch.ones(1, 3, 8))
except RuntimeError as error:
    print("RuntimeError:", error)
""",
        """
RuntimeError: The size of tensor a (0) must match the size of tensor b (4) at non-singleton dimension 1
""",
    ),
    Defect(
        "transformers 5.23.0: scores in bfloat16 tie",
        "`lfm2_moe`, `aria`, `mistral4` and `gpt_oss` score in the dtype of the hidden states; in "
        "bfloat16 most tokens then have a tie at the cut, and who is chosen is an accident of the sort. "
        "pymoe's ties go to the lowest id, and the dtype is the caller's.",
        """
import torch
torch.manual_seed(0)
z = torch.randn(1000, 256) * 3
for dtype in (torch.float32, torch.bfloat16):
    s = torch.sigmoid(z.to(dtype)).sort(dim=1, descending=True).values
    print(dtype, "tokens with a tie at the cut of 8 of 256:", (s[:, 7] == s[:, 8]).float().mean().item())
""",
        """
torch.float32 tokens with a tie at the cut of 8 of 256: 0.0
torch.bfloat16 tokens with a tie at the cut of 8 of 256: 0.8579999804496765
""",
    ),
)
