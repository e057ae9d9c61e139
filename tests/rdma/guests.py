"""Virtual machines with a Soft-RoCE device each: real RDMA verbs without a network card. qemu emulates the processor,
so that neither KVM nor anything of this machine's kernel is needed. Guests see this machine's file system; what they
write there goes with them, but for the folder /shared. Two guests are joined by one virtual wire."""
import contextlib
import pathlib
import stat
import subprocess
import tempfile
import time

from kernel import PACKAGES, CannotBoot, kernel

HERE = pathlib.Path(__file__).resolve().parent


def run_in_guests(command, count, processors, limit_s):
    """Boots `count` guests, runs a shell command in each and returns what they printed, by rank.
    The command finds its guest's rank, from 0, as RANK; rank's address is 10.77.0.(rank + 1). It must end with 0."""
    with tempfile.TemporaryDirectory(prefix="guildhall-guests-") as folder, contextlib.ExitStack() as ending:
        guests = [Guest(rank, pathlib.Path(folder)) for rank in range(count)]
        shared = pathlib.Path(folder, "shared")
        shared.mkdir()
        (shared / "setup").write_text((HERE / "setup").read_text())
        (shared / "command").write_text(command)
        pathlib.Path(folder, "initramfs").write_bytes(initramfs(kernel() / "modules"))
        deadline = time.monotonic() + limit_s
        for guest in guests:
            guest.boot(processors)
            ending.callback(guest.kill)
            while not guest.wire.exists() and guest.running():  # the first guest makes it, the second needs it
                time.sleep(0.02)
        while any(guest.running() for guest in guests) and time.monotonic() < deadline:
            time.sleep(0.1)
        everything = "\n".join(guest.report() for guest in guests)
        for guest in guests:
            if not guest.came_up():
                raise CannotBoot(f"guest {guest.rank} did not come up; `{PACKAGES}` installs what it needs.\n{everything}")
        for guest in guests:
            if guest.status() != "0":
                how = f"ended with {guest.status()}" if guest.status() else f"did not end within {limit_s} s"
                raise AssertionError(f"the command in guest {guest.rank} {how}:\n{everything}")
        return [guest.output() for guest in guests]


class Guest:
    """One qemu process and the files it leaves in `folder`."""

    def __init__(self, rank, folder):
        self.rank, self.folder, self.wire = rank, folder, folder / "wire"

    def boot(self, processors):
        arguments = {
            "accel": "tcg,thread=multi", "cpu": "max", "smp": processors, "m": "1024", "display": "none",
            "kernel": kernel() / "vmlinux", "initrd": self.folder / "initramfs",
            "append": "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 random.trust_cpu=on "
                      f"no_timer_check rank={self.rank}",  # a busy host makes the timer look broken
            "serial": f"file:{self.folder}/console.{self.rank}",
            "netdev": f"stream,id=wire,server={'off' if self.rank else 'on'},addr.type=unix,addr.path={self.wire}"}
        words = ["-nodefaults", "-no-user-config", "-no-reboot",
                 *(word for key, value in arguments.items() for word in (f"-{key}", str(value))),
                 "-device", f"virtio-net-pci,netdev=wire,mac=52:54:00:00:00:0{self.rank},host_mtu=9000,romfile="]
        for tag, path, mode in (("host", "/", "on"), ("shared", self.folder / "shared", "off")):
            words += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap,readonly={mode}",
                      "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        with open(self.folder / f"qemu.{self.rank}", "w") as log:
            try:  # setpriv: a guest does not outlive its test
                self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *words],
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            except FileNotFoundError:
                raise CannotBoot(f"there is no setpriv here: `{PACKAGES}` installs it") from None

    def running(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def text(self, name):
        file = self.folder / f"{name}.{self.rank}"
        return file.read_text(errors="replace") if file.exists() else ""

    def came_up(self):
        return (self.folder / f"shared/output.{self.rank}").exists()

    def status(self):
        return self.text("shared/status").strip()

    def output(self):
        return self.text("shared/output")

    def report(self):
        parts = {name: self.text(name).strip() for name in ("qemu", "console", "shared/output")}
        return "\n".join(f"--- guest {self.rank}, {name}\n{text}" for name, text in parts.items() if text)


def initramfs(modules):
    """What the kernel starts from: a "newc" archive, uncompressed. Format: the kernel's
    Documentation/driver-api/early-userspace/buffer-format.rst."""
    busybox = pathlib.Path("/bin/busybox")
    if not busybox.exists():
        raise CannotBoot(f"there is no {busybox} here: `{PACKAGES}` installs it")
    entries = [("bin", None), ("modules", None), ("init", HERE / "init"), ("bin/busybox", busybox)]
    entries += [(f"modules/{file.name}", file) for file in modules.iterdir()]
    archive = bytearray()
    for name, file in [*entries, ("TRAILER!!!", None)]:
        data = file.read_bytes() if file else b""
        mode = (stat.S_IFREG if file else stat.S_IFDIR) | 0o755
        # inode, mode, user, group, links, time, size, device, device's, name's length with its zero, checksum
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        for part in (b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0", data):
            archive += part + bytes(-len(part) % 4)
    return bytes(archive)
