"""The model card's front matter, as model hubs read it."""

from __future__ import annotations

import pytest

from modfill.weights.file import SHIPPED


def test_the_front_matter_is_valid() -> None:
    """huggingface_hub parses it without leniency; its `validate` would ask a server."""
    hub = pytest.importorskip("huggingface_hub")
    text = SHIPPED.with_name("MODEL_CARD.md").read_text(encoding="utf8")
    data = hub.ModelCard(text, ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "modfill", "image-to-image")
    assert len(data.eval_results) == 2
    for result in data.eval_results:  # the figures are those of the card
        assert text.count(f"{result.metric_value:.2f}") > 1
