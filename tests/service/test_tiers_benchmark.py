"""What the benchmarks of many tasks stand on: valid and distinct adapters, full indexes."""

import asyncio

from adapters.checkpoint import parse
from adapters.proof import check_logits, golden_batch
from adapters.store.opening import open_index
from benchmarks.index import measure
from benchmarks.many_tasks import first_checkpoint, variant
from tests import makers


def test_every_generated_adapter_is_another_one_whose_proof_holds():
    """Serving them is serving real tasks: digests, values and logits all differ."""
    backbone = makers.backbone("test_resnet")
    first = first_checkpoint(backbone, classes=4)
    made = [parse(variant(first, number)) for number in range(3)]
    assert len({checkpoint.digest for checkpoint in made}) == 3
    assert len({checkpoint.state["head.bias"][0].item() for checkpoint in made}) == 3
    for checkpoint in made:
        proof = checkpoint.manifest.proof
        logits = checkpoint.model(backbone).predict(
            golden_batch(proof, backbone.spec.preprocessing)
        )
        check_logits(proof, checkpoint.golden_logits, logits, "float32")


def test_an_index_is_filled_once(tmp_path):
    """A second measurement finds the tasks of the first."""
    url = f"sqlite:///{tmp_path}/index.db"
    for _ in range(2):
        operations = asyncio.run(measure(url, tasks=5, times=2))
    assert all(operation.p50_ms > 0 for operation in operations)
    index = open_index(url)
    tasks = asyncio.run(index.list_tasks("default", limit=100))
    asyncio.run(index.close())
    # Two rounds of two operations that register, twice each.
    assert len(tasks) == 5 + 8
