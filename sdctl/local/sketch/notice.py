"""What every picture says about itself, whichever protocol it was asked for with."""

from __future__ import annotations

RUNTIME = "sketch"
SENTENCE = (
    "Drawn by sketch, the built-in runtime of sdctl: computed from the prompt and the seed by a drawing "
    "program. It is not Stable Diffusion and no model was used."
)


def notice() -> dict[str, str]:
    """Return the text chunks that tell where a picture comes from."""
    return {"runtime": RUNTIME, "Comment": SENTENCE}
