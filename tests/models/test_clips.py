from __future__ import annotations

import pytest
import torch

from models._clips import BACKGROUNDS, COLOURS, FRAMES, PIXELS, TEXT, WORDS, _backgrounds, caption, clips, tokens


def test_clips_come_again_with_their_seed_and_differ_among_each_other() -> None:
    (video, text), (again, same), (other, _) = (clips(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert video.shape == (4, 3, FRAMES, PIXELS, PIXELS) and text.shape == (4, TEXT)
    assert torch.equal(video, again) and torch.equal(text, same) and not torch.equal(video, other)
    assert float(video.min()) >= -1 and float(video.max()) <= 1


def test_captions_are_sentences_that_become_the_same_numbers() -> None:
    _, text = clips(64, torch.Generator().manual_seed(0))
    assert all(torch.equal(tokens(caption(one)), one) for one in text)
    assert {len(caption(one).split()) for one in text} == {6, 11, 16}
    assert all(caption(one).split()[-2] == "on" and WORDS[int(one[0])] in COLOURS for one in text)


def test_the_first_object_is_in_front_and_moves_as_its_caption_says() -> None:
    generator = torch.Generator().manual_seed(3)
    seen = 0
    for video, text in zip(*clips(64, generator), strict=True):
        words = caption(text).split()
        inside = (video - torch.tensor(COLOURS[words[0]])[:, None, None, None]).abs().sum(0) < 1e-4  # [frames, height, width]
        if words[2:4] != ["moves", "right"] or sum(word == words[0] for word in words) > 1:
            continue
        columns = torch.arange(float(PIXELS))
        first, third = ((inside[frame].float().sum(0) * columns).sum() / inside[frame].sum() for frame in (0, 2))
        assert inside.any(1).any(1).all()  # nothing hides it
        seen += 1
        assert abs(float(third - first)) > 1.5 or float(first) > PIXELS - 20  # near a wall it turns
    assert seen >= 4


def test_stripes_run_along_rows_or_columns() -> None:
    plain, rows, columns, clouds = _backgrounds(torch.arange(len(BACKGROUNDS)), torch.Generator().manual_seed(0))

    def constant(one: torch.Tensor, axis: int) -> bool:
        return float((one.amax(axis) - one.amin(axis)).max()) < 1e-6

    same = [(constant(one, 2), constant(one, 1)) for one in (plain, rows, columns, clouds)]
    assert same == [(True, True), (True, False), (False, True), (False, False)]


def test_backgrounds_stand_still() -> None:
    for video, text in zip(*clips(16, torch.Generator().manual_seed(0)), strict=True):
        shapes = torch.stack([torch.tensor(COLOURS[word]) for word in caption(text).split() if word in COLOURS])
        is_shape = ((video - shapes[:, :, None, None, None]).abs().sum(1) < 1e-4).any(0)  # [frames, height, width]
        still = (video == video[:, :1]).all(0)
        assert float(still.float().mean()) > 0.7  # but for shapes and their edges
        assert not (still & is_shape).all(0).all()


def test_unknown_words_and_long_captions_are_refused() -> None:
    with pytest.raises(ValueError, match="purple"):
        tokens("purple circle moves up on plain")
    with pytest.raises(ValueError, match="17 words"):
        tokens(" ".join(["red"] * 17))
