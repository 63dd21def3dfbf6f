/* The elementwise part of an expert: act, GLU, and their backward fused with the gate weight. */

/* out[i] = act(x[i]) */
CLONES void NAME(act_span)(T *out, const T *x, int act, ptrdiff_t lo, ptrdiff_t hi) {
#define BODY(A)                                                                                                        \
    INDEPENDENT for (ptrdiff_t i = lo; i < hi; i++) out[i] = NAME(activation)(A, x[i]).f
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}

/* dx[i] = dh[i] act'(x[i]) */
CLONES void NAME(act_backward_span)(T *dx, const T *dh, const T *x, int act, ptrdiff_t lo, ptrdiff_t hi) {
#define BODY(A)                                                                                                        \
    INDEPENDENT for (ptrdiff_t i = lo; i < hi; i++) dx[i] = dh[i] * NAME(activation)(A, x[i]).df
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}

/* h = act(g) u for rows x = [g | u] of width 2f */
CLONES void NAME(glu_rows)(T *h, const T *x, int act, ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {
#define BODY(A)                                                                                                        \
    for (ptrdiff_t r = lo; r < hi; r++) {                                                                              \
        const T *g = x + 2 * r * f, *u = g + f;                                                                        \
        T *o = h + r * f;                                                                                              \
        INDEPENDENT for (ptrdiff_t i = 0; i < f; i++) o[i] = NAME(activation)(A, g[i]).f * u[i];                       \
    }
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}

/* dx = [dh u act'(g) | dh act(g)] */
CLONES void NAME(glu_backward_rows)(T *dx, const T *dh, const T *x, int act, ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {
#define BODY(A)                                                                                                        \
    for (ptrdiff_t r = lo; r < hi; r++) {                                                                              \
        const T *g = x + 2 * r * f, *u = g + f, *d = dh + r * f;                                                       \
        T *dg = dx + 2 * r * f, *du = dg + f;                                                                          \
        INDEPENDENT for (ptrdiff_t i = 0; i < f; i++) {                                                                \
            NAME(pair) p = NAME(activation)(A, g[i]);                                                                  \
            T gate = d[i] * u[i] * p.df;                                                                               \
            du[i] = d[i] * p.f;                                                                                        \
            dg[i] = gate;                                                                                              \
        }                                                                                                              \
    }
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}

/* One pass: dx = glu_backward(w dh, x), wh = w h, dweight = ⟨dh, h⟩, with h = act(g) u.
 * The products dh·h go through a tile of 512 that stays in the first cache and are added in lanes. */
#define TILE 512
CLONES void NAME(weighted_glu_rows)(T *dx, T *wh, T *dweight, const T *dh, const T *x, const T *weight, int act,
                                    ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {
    T product[TILE];
#define BODY(A)                                                                                                        \
    for (ptrdiff_t r = lo; r < hi; r++) {                                                                              \
        NAME(lanes) s = {0};                                                                                    \
        const T w = weight[r];                                                                                         \
        for (ptrdiff_t from = 0; from < f; from += TILE) {                                                             \
            const ptrdiff_t n = f - from < TILE ? f - from : TILE;                                                     \
            const T *g = x + 2 * r * f + from, *u = g + f, *d = dh + r * f + from;                                     \
            T *dg = dx + 2 * r * f + from, *du = dg + f, *o = wh + r * f + from;                                       \
            INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) {                                                            \
                NAME(pair) p = NAME(activation)(A, g[i]);                                                              \
                T h = p.f * u[i], wd = w * d[i];                                                                       \
                o[i] = w * h;                                                                                          \
                product[i] = d[i] * h;                                                                                 \
                dg[i] = wd * u[i] * p.df;                                                                              \
                du[i] = wd * p.f;                                                                                      \
            }                                                                                                          \
            NAME(lanes_add)(&s, product, n);                                                                           \
        }                                                                                                              \
        dweight[r] = NAME(tree)(&s);                                                                                   \
    }
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}

/* The same without a gate: h = act(x), dx = w dh act'(x). */
CLONES void NAME(weighted_act_rows)(T *dx, T *wh, T *dweight, const T *dh, const T *x, const T *weight, int act,
                                    ptrdiff_t f, ptrdiff_t lo, ptrdiff_t hi) {
    T product[TILE];
#define BODY(A)                                                                                                        \
    for (ptrdiff_t r = lo; r < hi; r++) {                                                                              \
        NAME(lanes) s = {0};                                                                                    \
        const T w = weight[r];                                                                                         \
        for (ptrdiff_t from = 0; from < f; from += TILE) {                                                             \
            const ptrdiff_t n = f - from < TILE ? f - from : TILE;                                                     \
            const T *v = x + r * f + from, *d = dh + r * f + from;                                                     \
            T *o = wh + r * f + from, *dv = dx + r * f + from;                                                         \
            INDEPENDENT for (ptrdiff_t i = 0; i < n; i++) {                                                            \
                NAME(pair) p = NAME(activation)(A, v[i]);                                                              \
                o[i] = w * p.f;                                                                                        \
                product[i] = d[i] * p.f;                                                                               \
                dv[i] = w * d[i] * p.df;                                                                               \
            }                                                                                                          \
            NAME(lanes_add)(&s, product, n);                                                                           \
        }                                                                                                              \
        dweight[r] = NAME(tree)(&s);                                                                                   \
    }
    FOR_EACH_ACTIVATION(BODY)
#undef BODY
}
#undef TILE
#undef FOR_EACH_ACTIVATION
