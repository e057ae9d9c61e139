#!/usr/bin/env python3
"""Arrows point down: fails when a source file includes from a folder that its own may not know.

Usage: check_includes.py ROOT        checks the tree
       check_includes.py --self-test shows that it finds what it should
"""
import pathlib
import re
import sys
import tempfile

# What each folder may include from, besides itself.
ALLOWED = {
    "base": set(),
    "proto": {"base"},
    "kernels": {"base", "proto"},
    "model": {"base", "kernels", "proto"},
    "transport": {"base", "proto"},
    "experts": {"base", "kernels", "proto", "model", "transport"},
    "router": {"base", "kernels", "proto", "model", "transport"},
    "deploy": {"base", "kernels", "proto", "model", "transport", "experts", "router"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z_]+)/')
CUDA_FORBIDDEN = re.compile(r'^\s*#\s*include\s+[<"](boost/|ucp/|google/protobuf|proto/.*\.pb\.h)')


def violations(root):
    for folder, allowed in ALLOWED.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if match and match[1] in ALLOWED and match[1] != folder and match[1] not in allowed:
                    yield f"{path.relative_to(root)}:{number}: {folder}/ must not include from {match[1]}/"
                if match and match[1] == "tests":
                    yield f"{path.relative_to(root)}:{number}: {folder}/ must not include from tests/"
                if path.suffix in {".cu", ".cuh"} and CUDA_FORBIDDEN.match(line):
                    yield f"{path.relative_to(root)}:{number}: CUDA sources include no Boost, UCX or protobuf"


def self_test():
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for folder in ALLOWED:
            (root / folder).mkdir()
        (root / "router" / "good.cc").write_text('#include "kernels/view.h"\n#include <vector>\n')
        assert not list(violations(root))
        (root / "kernels" / "bad.cc").write_text('#include "base/check.h"\n#include "model/spec.h"\n')
        (root / "router" / "bad.h").write_text('  #  include "experts/worker.h"\n')
        (root / "kernels" / "bad.cu").write_text("#include <boost/json.hpp>\n")
        found = list(violations(root))
        assert len(found) == 3, found
        assert found[0].startswith("kernels/bad.cc:2:"), found


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(violations(pathlib.Path(sys.argv[1])))
    print("\n".join(found) if found else "includes point down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
