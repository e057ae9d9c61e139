"""The tarball of `cpack` on a machine that has glibc and nothing else: a bare root folder stands in for it."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import BIN, Cluster, config_text

GLIBC = {"ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libmvec.so.1", "libdl.so.2", "librt.so.1",
         "libpthread.so.0", "libresolv.so.2"}
RDMA = {"libibverbs.so.1", "librdmacm.so.1", "libmlx5.so.1", "libefa.so.1"}  # of the machine's drivers
PROGRAMS = ("guildhall", "guildhall-router", "guildhall-expert")


def read(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def needed_names(file):
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", read("readelf", "-dW", file)))


def run_path(file):
    return ":".join(re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", read("readelf", "-dW", file)))


class BareRoot:
    """A root folder with glibc's libraries, the bundle in /guildhall, and what a kernel gives: /proc, /sys, /dev."""

    def __init__(self, folder, bundle):
        self.folder = folder
        for name in ("proc", "sys", "dev", "tmp"):
            (folder / name).mkdir()
        for line in read("ldd", BIN / "guildhall-router").splitlines():
            path = next((word for word in line.split() if word.startswith("/")), "")
            if pathlib.Path(path).name in GLIBC:
                copy = folder / path.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
        shutil.move(bundle, folder / "guildhall")

    def command(self, *words):
        """Runs a program of the folder with the folder as its root; what is mounted there goes with the process."""
        mounts = "".join(f"mount --rbind /{name} {self.folder}/{name} && " for name in ("proc", "sys", "dev"))
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                f'{mounts}exec env -i "$(command -v chroot)" {self.folder} "$@"', "sh", *words]


class BareCluster(Cluster):
    def __init__(self, root, transport):
        super().__init__("/guildhall/share/guildhall/demo-model", transport=transport,
                         extra="log: {level: info}\n")
        self.root = root
        shutil.copy(self.config, root.folder / "tmp/guildhall.yaml")

    def start(self):
        command = self.root.command("/guildhall/bin/guildhall", "up", "--config", "/tmp/guildhall.yaml")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        return self


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-bundle-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        read("cpack", "--config", BIN.parent / "CPackConfig.cmake", "-G", "TGZ", "-B", cls.folder)
        (tarball,) = cls.folder.glob("guildhall-*.tar.gz")
        print(f"\n{tarball.name}: {tarball.stat().st_size / 2**20:.1f} MiB", flush=True)
        (cls.folder / "unpacked").mkdir()
        read("tar", "-xzf", tarball, "-C", cls.folder / "unpacked")
        (cls.bundle,) = (cls.folder / "unpacked").iterdir()

    def libraries(self):
        return list((self.bundle / "lib/guildhall").rglob("*.so*"))

    def test_nothing_outside_but_glibc_is_needed(self):
        names = {file.name for file in self.libraries()}
        for file in [self.bundle / "bin" / name for name in PROGRAMS] + self.libraries():
            outside = needed_names(file) - names - GLIBC
            self.assertEqual(outside - RDMA if file.parent.name == "ucx" else outside, set(), file)

    def test_libraries_are_found_relative_to_the_program(self):
        for file in [self.bundle / "bin" / name for name in PROGRAMS] + self.libraries():
            for folder in filter(None, run_path(file).split(":")):
                self.assertTrue(folder.startswith("$ORIGIN"), f"{file}: {folder}")
        for name in PROGRAMS:
            for line in read("ldd", self.bundle / "bin" / name).splitlines():
                if "=>" in line and line.split()[0] not in GLIBC:
                    self.assertIn("/lib/guildhall/", line, name)

    def test_licences_go_with_it(self):
        licences = [file.name for file in (self.bundle / "share/guildhall/licenses").iterdir()]
        for package in ("libucx", "libprotobuf", "libyaml-cpp", "libspdlog", "libboost", "libcli11", "libgcc"):
            self.assertTrue(any(name.startswith(package) for name in licences), (package, licences))
        self.assertTrue((self.bundle / "share/guildhall/LICENSE").exists())

    def test_serves_the_demo_on_a_bare_machine(self):
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            root = BareRoot(pathlib.Path(name), shutil.copytree(self.bundle, self.folder / "moved"))
            self.assertIn("0.1.0", read(*root.command("/guildhall/bin/guildhall", "--version")))
            for transport, via in (("", "sysv|posix"), ('ucx: {tls: "tcp,self"}', "tcp")):
                with self.subTest(transport or "default"), BareCluster(root, transport) as cluster:
                    reply = cluster.complete(prompt="Blessed is the man", max_tokens=16, temperature=0)
                    self.assertIn("that", reply["choices"][0]["text"], json.dumps(reply))
                    self.assertRegex(cluster.output(), f'ucx_connected peer=w1 via="[^"]*({via})')
                    self.assertIn("/ucx/libuct_cma.so", self.mapped(cluster.worker_pid("w0")))

    def mapped(self, pid):
        return pathlib.Path(f"/proc/{pid}/maps").read_text()


if __name__ == "__main__":
    unittest.main()
