"""Which source an address is that somebody copies from a publisher's site."""

from __future__ import annotations

import pytest

from sdctl.errors import UsageError
from sdctl.models import civitai, huggingface

HF = "https://huggingface.co"
CIVITAI = "https://civitai.com"


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (f"{HF}/who/what", "hf:who/what"), (f"{HF}/who/what/", "hf:who/what"),
        (f"{HF}/who/what/tree/main", "hf:who/what@main"),
        (f"{HF}/who/what/tree/v2/vae", "hf:who/what/vae@v2"),
        (f"{HF}/who/what/blob/main/a.safetensors", "hf:who/what/a.safetensors@main"),
        (f"{HF}/who/what/resolve/main/s/a%20b.ckpt?download=true", "hf:who/what/s/a b.ckpt@main"),
        (f"{HF}/who/what/blob/refs%2Fpr%2F1/a.safetensors", "hf:who/what/a.safetensors@refs/pr/1"),
        (f"{HF}/datasets/squad", ""), (f"{HF}/docs/hub", ""), (f"{HF}/who", ""), (HF, ""),
        ("https://example.com/who/what", ""), ("https://huggingface.co.example.com/who/what", ""),
        ("https://[", ""), ("hf:who/what", ""),
    ],
)  # fmt: skip
def test_pages_and_files_of_hugging_face(url: str, source: str) -> None:
    assert huggingface.source_of(url) == source


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (f"{CIVITAI}/models/7/nice?modelVersionId=99", "civitai:99"),
        (f"{CIVITAI}/api/download/models/99?type=Model&format=SafeTensor", "civitai:99"),
        ("https://www.civitai.com/models/7?modelVersionId=99", "civitai:99"),
        (f"{CIVITAI}/images/5", ""), ("https://example.com/models/7", ""), ("https://[", ""),
        ("civitai:99", ""),
    ],
)  # fmt: skip
def test_pages_and_downloads_of_civitai(url: str, source: str) -> None:
    assert civitai.source_of(url) == source


@pytest.mark.parametrize("path", ["/models/7", "/models/7/a-nice-model", "/models/7?tab=gallery"])
def test_a_models_page_of_civitai_wants_a_version(path: str) -> None:
    with pytest.raises(UsageError) as raised:
        civitai.source_of(CIVITAI + path)
    assert "modelVersionId" in raised.value.hint
