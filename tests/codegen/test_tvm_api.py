import subprocess
import sys

import pytest

from sparsecc.codegen import tvm_api


def test_every_name_is_where_it_says():
    for name in tvm_api._HOMES:
        assert getattr(tvm_api, name) is not None


def test_others_are_not_offered():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = tvm_api.no_such_thing


def test_torch_is_not_loaded_but_works_afterwards():
    script = (
        "import sys\n"
        "from sparsecc.codegen import tvm_api\n"
        "tvm_api.cpu()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert torch.from_dlpack(tvm_api.from_dlpack(torch.ones(64))).sum() == 64\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
