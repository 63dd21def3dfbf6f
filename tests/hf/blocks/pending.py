"""Rows that pymoe cannot say yet, and why: this has to become empty, and a test fails for a row that could leave it."""

PENDING: dict[str, str] = {
    "beam": "scale_at='output' is not applied by the layer",
    "minimax_m3_vl": "scale_at='output' is not applied by the layer",
    "step3p7": "scale_at='output' is not applied by the layer",
    "laguna": "scale_at='output' is not applied by the layer",
    "nllb_moe": "scale_at='output' is not applied by the layer",
    "inkling": "the layer does not hand the router's weights to the shared experts",
    "longcat_flash": "null experts are not taken out of the plan",
}
