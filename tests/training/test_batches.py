"""The order of the images: complete, fair, and the same from wherever it begins."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.batches import BatchPlan
from training.errors import InvalidConfig


@given(images=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 9))
def test_every_image_is_in_one_batch_of_each_epoch(images, batch_size, seed):
    """An epoch has each image once, in batches of nearly equal size, none too large."""
    plan = BatchPlan(images, batch_size, seed)
    for epoch in range(3):
        batches = plan.batches(epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(images))
        assert len(batches) == plan.updates
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@given(parts=st.integers(1, 4), ranks=st.integers(1, 3), images=st.integers(12, 50))
def test_parts_and_processes_share_a_batch(parts, ranks, images):
    """Whoever computes it, a batch is the same images, each once."""
    whole = BatchPlan(images, 12, 5)
    assume(images // whole.updates >= parts * ranks)
    plans = [BatchPlan(images, 12, 5, parts, ranks, rank) for rank in range(ranks)]
    shared = [plan.parts_of(plan.batches(1)[0]) for plan in plans]
    together = [index for own in shared for part in own for index in part]
    assert sorted(together) == sorted(whole.batches(1)[0])
    assert all(len(own) == parts and all(map(len, own)) for own in shared)


@given(epoch=st.integers(0, 2), update=st.integers(0, 4))
def test_a_stream_can_begin_anywhere(epoch, update):
    """From any place on it is the rest of the stream from the beginning."""
    plan = BatchPlan(23, 5, 1, parts=2)
    everything = [(current, tuple(part)) for current, part in plan.stream(0, 0, 3)]
    rest = [(current, tuple(part)) for current, part in plan.stream(epoch, update, 3)]
    assert rest == everything[(epoch * plan.updates + update) * plan.parts :]


def test_seeds_and_epochs_have_orders_of_their_own():
    """Another seed or epoch shuffles in another way."""
    orders = {
        tuple(BatchPlan(30, 30, seed).batches(epoch)[0]) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_part_without_an_image_is_refused():
    """More parts than images cannot be."""
    with pytest.raises(InvalidConfig, match="--accumulation"):
        BatchPlan(images=3, batch_size=32, seed=0, parts=2, ranks=2)
