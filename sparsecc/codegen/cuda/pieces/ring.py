"""A ring of stages in shared memory that bulk copies fill and other warps read, kept by two rows of mbarriers.

The producer waits until a stage is empty, says how many bytes it expects and starts the copies; consumers wait until these have come, read,
and release the stage. Both count steps 0, 1, 2, .. on their own, over all tiles: step i uses stage i % stages, and its
phase is i // stages.

In a cluster a copy may go to all of its blocks at once. A stage is then empty when the consumers of all blocks have released it.
"""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.cuda.script import T


class Ring:
    """stages: in flight.  readers: warps of a block that read each stage.  cluster: blocks that share copies. In a kernel it is made as
    `T.meta_var(Ring(...))`. Steps are uint32."""

    def __init__(self, pool: Any, stages: int, readers: int, cluster: int = 1) -> None:
        self.full = pool.alloc((stages,), "uint64", align=8)
        self.empty = pool.alloc((stages,), "uint64", align=8)
        self.stages, self.readers, self.cluster = stages, readers, cluster

    def begin(self, thread: Any) -> None:
        """Before the first use, by all threads."""
        with T.If(thread == 0), T.Then():
            for i in range(self.stages):
                T.evaluate(T.ptx.mbarrier.init.shared.b64(self.full.ptr_to([i]), T.uint32(1)))
                T.evaluate(T.ptx.mbarrier.init.shared.b64(self.empty.ptr_to([i]), T.uint32(self.readers * self.cluster)))
            T.evaluate(T.ptx.fence.mbarrier_init.release.cluster())
        T.evaluate(T.cuda.cluster_sync() if self.cluster > 1 else T.cuda.cta_sync())

    def claim(self, step: Any) -> None:
        """By the producer's threads: until the stage of `step` is empty."""
        T.evaluate(T.cuda.mbarrier_wait(self.empty.ptr_to([step % self.stages]), T.cast((step // self.stages + 1) % 2, "int32")))

    def expect(self, step: Any, stage_bytes: Any) -> None:
        """By one of them: that copies will bring `stage_bytes` in all, to `bar(step)`. Others may have begun theirs before."""
        T.evaluate(T.ptx.mbarrier.arrive.expect_tx.shared.b64(self.bar(step), T.cast(stage_bytes, "uint32")))

    def bar(self, step: Any) -> Any:
        return self.full.ptr_to([step % self.stages])

    def wait(self, step: Any) -> None:
        """By all threads of a consumer: until the stage of `step` is full."""
        T.evaluate(T.cuda.mbarrier_wait(self.bar(step), T.cast(step // self.stages % 2, "int32")))

    def release(self, step: Any, lane: Any) -> None:
        """By all threads of a consumer's warp, once it no longer reads the stage of `step`."""
        place = self.empty.ptr_to([step % self.stages])
        with T.If(lane < self.cluster), T.Then():
            if self.cluster == 1:
                T.evaluate(T.ptx.mbarrier.arrive.shared.b64(place, T.uint32(1)))
            else:
                there = T.alloc_local([1], "uint32")
                T.evaluate(T.ptx["mapa.shared::cluster.u32"](there[0], T.cuda.cvta_generic_to_shared(place), T.cast(lane, "uint32")))
                T.evaluate(T.ptx["mbarrier.arrive.shared::cluster.b64"](there[0]))
