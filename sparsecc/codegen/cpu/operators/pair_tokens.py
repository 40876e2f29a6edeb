"""float32 activations in tiles → groups of two neighbouring tokens in bfloat16: the values of an attention, which sums over tokens."""

from dataclasses import dataclass

from sparsecc.codegen.cpu.operators.group_tokens import lower_half
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T

_JOBS = 2  # per thread


@dataclass(frozen=True)
class PairSpec:
    """x: [sequences · tiles each, features, tile] → uint16 [.., features, tile], bits of bfloat16, which are int32 [.., tile / 2] as well.

    tokens: of each sequence; what lies beyond becomes zero.
    """

    sequences: int
    tokens: int
    features: int
    tile: int

    @property
    def tiles(self) -> int:
        return self.sequences * ceil_div(self.tokens, self.tile)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.tiles, self.features, self.tile // 2


def build(spec: PairSpec, target: Target):
    """PrimFunc(x, y)."""
    lanes, tiles, features, tile = target.lanes, spec.tiles, spec.features, spec.tile
    each, vectors = tiles // spec.sequences, tile // lanes
    parts = min(ceil_div(_JOBS * target.threads, tiles), features)
    per_part = ceil_div(features, parts)

    @T.prim_func
    def pair_tokens(X: T.Buffer((tiles, features, tile), "float32"), y: T.Buffer(spec.y_shape, "int32")):
        T.func_attr({"tirx.noalias": True})
        Y = T.decl_buffer((tiles, features, tile), "uint16", data=y.data)
        for job in T.parallel(tiles * parts):
            t: T.let = job // parts
            for ff in range(T.min(per_part, features - job % parts * per_part)):
                f: T.let = job % parts * per_part + ff
                for v in T.unroll(vectors):
                    for l in T.vectorized(lanes):
                        Y[t, f, v * lanes + l] = T.Cast(
                            "uint16",
                            T.Select(t % each * tile + v * lanes + l < spec.tokens, lower_half(X[t, f, v * lanes + l]), T.int32(0)),
                        )

    return pair_tokens
