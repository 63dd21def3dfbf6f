/* One AdamW step in one pass: 4 reads and 3 writes an element, the operations in the order of the definition. */
CLONES void NAME(adamw_span)(T *p_new, T *m_new, T *v_new, const T *p, const T *g, const T *m, const T *v,
                             const double *setting, ptrdiff_t lo, ptrdiff_t hi) {
    const R lr = (R)setting[0], beta1 = (R)setting[1], rest1 = (R)setting[2], beta2 = (R)setting[3];
    const R rest2 = (R)setting[4], a = (R)setting[5], b = (R)setting[6], eps = (R)setting[7], decay = (R)setting[8];
    INDEPENDENT for (ptrdiff_t i = lo; i < hi; i++) {
        T mi = beta1 * m[i] + rest1 * g[i];
        T vi = beta2 * v[i] + rest2 * (g[i] * g[i]);
        m_new[i] = mi;
        v_new[i] = vi;
        p_new[i] = p[i] - lr * (mi * a / (SQRT(vi * b) + eps) + decay * p[i]);
    }
}
