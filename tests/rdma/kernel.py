"""The guest's kernel: the distribution's own, downloaded once and kept under build/, with the modules a guest needs."""
import fcntl
import functools
import lzma
import os
import pathlib
import platform
import shutil
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CACHE = SOURCE / "build/guest-kernel"
PACKAGES = "deploy/install-packages tests/packages.txt"
MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay", "crc32_generic", "rdma_rxe", "rdma_ucm",
           "sch_netem")
# Distribution -> a package that depends on the newest kernel's image, and packages its version has beside that image.
IMAGES = {"debian": ("linux-image-amd64", ()),
          "ubuntu": ("linux-image-generic", ("linux-modules", "linux-modules-extra"))}


class CannotBoot(AssertionError):
    """No guest comes up on this machine; the message says what is missing."""


def run(*words, folder=None, data=None):
    """What it prints, as bytes; a failure is CannotBoot, with what it said."""
    try:
        done = subprocess.run(words, cwd=folder, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise CannotBoot(f"there is no {words[0]} here: `{PACKAGES}` installs it") from None
    if done.returncode != 0:
        raise CannotBoot(f"`{' '.join(map(str, words))}` ended with {done.returncode}: {done.stderr.decode().strip()}")
    return done.stdout


def package_names():
    """The packages that hold the newest kernel and its modules."""
    system = platform.freedesktop_os_release()
    names = [system["ID"], *system.get("ID_LIKE", "").split()]
    known = next((name for name in names if name in IMAGES), None)
    if not known or platform.machine() != "x86_64":
        raise CannotBoot("guests need Debian's or Ubuntu's kernel for x86-64: "
                         f"this is {names[0]} on {platform.machine()}")
    newest, beside = IMAGES[known]
    depends = run("apt-cache", "depends", newest).decode().split()
    image = next((word for word in depends if word.startswith("linux-image-") and word[12].isdigit()), None)
    if not image:
        raise CannotBoot(f"apt knows no kernel that {newest} depends on: run `apt-get update`")
    return [image] + [f"{name}-{image.removeprefix('linux-image-')}" for name in beside]


def download(folder):
    """The packages' files. Package lists may be absent or too old to download from, so a second try updates them."""
    root = os.getuid() == 0
    try:
        return download_once(folder, root)
    except CannotBoot:
        run(*([] if root else ["sudo"]), "apt-get", "update", "-qq")
        return download_once(folder, root)


def download_once(folder, root):
    as_root = ["-o", "APT::Sandbox::User=root"] if root else []
    run("apt-get", *as_root, "download", "-qq", *package_names(), folder=folder)
    return sorted(folder.glob("*.deb"))


def make(folder):
    """Fills `folder`: vmlinux, and the modules to load, numbered in their order."""
    tree = folder / "tree"
    tree.mkdir()
    for package in download(folder):
        run("dpkg-deb", "-x", package, tree)
        package.unlink()
    image = next(tree.glob("boot/vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    (folder / "vmlinux").write_bytes(unpacked_kernel(image))
    run("depmod", "-b", tree, version)
    files = {}  # a dict keeps the order and each file once
    for module in MODULES:
        needed = run("modprobe", "-d", tree, "-S", version, "--show-depends", module).decode()
        for line in needed.splitlines():
            action, *words = line.split()
            if action == "insmod":  # else it is built in
                files[pathlib.Path(words[0])] = None
    (folder / "modules").mkdir()
    for number, file in enumerate(files):
        name = f"{number}-{file.name.split('.')[0]}.ko"
        (folder / "modules" / name).write_bytes(decompressed(file.read_bytes()))
    shutil.rmtree(tree)


def unpacked_kernel(image):
    """The ELF file in a vmlinuz, which qemu starts directly: unpacking itself, emulated, would take several seconds.
    Offsets: the kernel's Documentation/arch/x86/boot.rst, setup_sects, payload_offset and payload_length."""
    data = image.read_bytes()
    begin = (data[0x1F1] + 1) * 512 + int.from_bytes(data[0x248:0x24C], "little")
    length = int.from_bytes(data[0x24C:0x250], "little") - 4  # the last 4 bytes are the kernel's own length
    kernel = decompressed(data[begin:begin + length])
    if kernel[:4] != b"\x7fELF":
        raise CannotBoot(f"{image.name} is packed in a way unknown here: it begins with {data[begin:begin + 6].hex()}")
    return kernel


def decompressed(data):
    """xz and zstd are known by their first bytes; anything else stays as it is."""
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return run("zstd", "-dcq", data=data)
    return data


@functools.cache
def kernel():
    """The folder that has it. Test runs at the same time share one download."""
    CACHE.parent.mkdir(exist_ok=True)
    with open(CACHE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe, made_from = pathlib.Path(__file__).read_text(), CACHE / "made-from"
        if not made_from.exists() or made_from.read_text() != recipe:
            fresh = CACHE.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)  # of a run that was ended
            fresh.mkdir()
            make(fresh)
            (fresh / "made-from").write_text(recipe)
            shutil.rmtree(CACHE, ignore_errors=True)
            fresh.rename(CACHE)
    return CACHE
