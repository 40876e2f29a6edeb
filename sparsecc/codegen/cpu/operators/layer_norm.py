"""Layer norm over the features of tokens in the vector lanes: no sum across lanes, two passes for mean and variance, one to store."""

from dataclasses import dataclass

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class LayerNormSpec:
    """x: [tiles, features, tile] → the same. centered=False leaves out the mean and the shift (RMS norm)."""

    tiles: int
    features: int
    tile: int
    epsilon: float
    centered: bool = True


def build(spec: LayerNormSpec, target: Target):
    """PrimFunc(x, gamma, beta, y), gamma and beta: [features]."""
    lanes, tiles, features, tile = target.lanes, spec.tiles, spec.features, spec.tile
    vectors = tile // lanes
    centered, epsilon, share = spec.centered, spec.epsilon, 1.0 / spec.features

    @T.prim_func
    def layer_norm(
        X: T.Buffer((tiles, features, tile), "float32"),
        gamma: T.Buffer((features,), "float32"),
        beta: T.Buffer((features,), "float32"),
        Y: T.Buffer((tiles, features, tile), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(tiles * vectors):
            mean = T.alloc_local((lanes,), "float32")
            scale = T.alloc_local((lanes,), "float32")
            for l in T.vectorized(lanes):
                mean[l] = T.float32(0)
                scale[l] = T.float32(0)
            if centered:
                for f in range(features):
                    for l in T.vectorized(lanes):
                        mean[l] = mean[l] + X[job // vectors, f, job % vectors * lanes + l]
                for l in T.vectorized(lanes):
                    mean[l] = mean[l] * T.float32(share)
            for f in range(features):
                for l in T.vectorized(lanes):
                    scale[l] = scale[l] + (X[job // vectors, f, job % vectors * lanes + l] - mean[l]) * (
                        X[job // vectors, f, job % vectors * lanes + l] - mean[l]
                    )
            for l in T.vectorized(lanes):
                scale[l] = T.float32(1) / T.sqrt(scale[l] * T.float32(share) + T.float32(epsilon))
            for f in range(features):
                for l in T.vectorized(lanes):
                    Y[job // vectors, f, job % vectors * lanes + l] = (X[job // vectors, f, job % vectors * lanes + l] - mean[l]) * scale[
                        l
                    ] * gamma[f] + beta[f]

    return layer_norm
