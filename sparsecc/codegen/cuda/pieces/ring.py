"""A ring of stages in shared memory that bulk copies fill and other warps read, kept by two rows of mbarriers.

One thread of the producer waits until a stage is empty, says how many bytes it expects and starts the copies; consumers wait until these
have come, read, and release the stage. Both count steps 0, 1, 2, .. on their own, over all tiles: step i uses stage i % stages, and its
phase is i // stages.

In a cluster a copy may go to all of its blocks at once. A stage is then empty when the consumers of all blocks have released it.
"""

from __future__ import annotations

from sparsecc.codegen.cuda.script import T


@T.meta_class
class Ring:
    """stages: in flight.  readers: warps of a block that read each stage.  cluster: blocks that share copies."""

    def __init__(self, pool, stages: int, readers: int, cluster: int = 1):
        self.full = pool.alloc((stages,), "uint64", align=8)
        self.empty = pool.alloc((stages,), "uint64", align=8)
        self.stages, self.readers, self.cluster = stages, readers, cluster

    @T.inline
    def begin(self, thread):
        """Before the first use, by all threads."""
        if thread == 0:
            for i in T.unroll(self.stages):
                T.ptx.mbarrier.init.shared.b64(self.full.ptr_to([i]), T.uint32(1))
                T.ptx.mbarrier.init.shared.b64(self.empty.ptr_to([i]), T.uint32(self.readers * self.cluster))
            T.ptx.fence.mbarrier_init.release.cluster()
        if self.cluster > 1:
            T.cuda.cluster_sync()
        else:
            T.cuda.cta_sync()

    @T.inline
    def claim(self, step, stage_bytes):
        """By the producer's thread: waits until the stage of `step` is empty. Copies of `stage_bytes` in all, to `bar(step)`, follow."""
        T.cuda.mbarrier_wait(self.empty.ptr_to([step % self.stages]), T.cast((step // self.stages + 1) % 2, "int32"))
        T.ptx.mbarrier.arrive.expect_tx.shared.b64(self.bar(step), T.cast(stage_bytes, "uint32"))

    def bar(self, step):
        return self.full.ptr_to([step % self.stages])

    @T.inline
    def wait(self, step):
        """By all threads of a consumer: until the stage of `step` is full."""
        T.cuda.mbarrier_wait(self.bar(step), T.cast(step // self.stages % 2, "int32"))

    @T.inline
    def release(self, step, lane):
        """By all threads of a consumer's warp, once it no longer reads the stage of `step`."""
        if self.cluster == 1:
            if lane == 0:
                T.ptx.mbarrier.arrive.shared.b64(self.empty.ptr_to([step % self.stages]), T.uint32(1))
        else:
            if lane < self.cluster:
                there = T.alloc_local([1], "uint32")
                T.ptx["mapa.shared::cluster.u32"](
                    there[0], T.cuda.cvta_generic_to_shared(self.empty.ptr_to([step % self.stages])), T.cast(lane, "uint32")
                )
                T.ptx["mbarrier.arrive.shared::cluster.b64"](there[0])
