"""run-gpu-checks with stand-ins for the device, the programs and compute-sanitizer: what passes, what fails, and how
it is told."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import textwrap
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PASSES = """
    echo "[==========] 3 tests from 1 test suite ran. (4 ms total)"
    echo "[  PASSED  ] 3 tests."
"""
FAILS = """
    echo "rows_test.cu:12: Failure, a row is off"
    echo "[  PASSED  ] 2 tests."
    echo "[  FAILED  ] 1 test, listed below:"
    exit 1
"""
SKIPS = """
    echo "[  PASSED  ] 2 tests."
    echo "[  SKIPPED ] 1 test, listed below:"
"""
SANITIZER = """
    echo "========= COMPUTE-SANITIZER $2"
    case "$2 $*" in
      racecheck*) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
      memcheck*gpu_leaky_test*) echo "========= ERROR SUMMARY: 5 errors"; exit 86 ;;
      *) echo "========= ERROR SUMMARY: 0 errors" ;;
    esac
"""
GUILDHALL = r'''
    import http.server, json, re, sys
    config = open(sys.argv[3]).read()
    text = " that walketh not" if "device: cpu" in config else "TEXT"
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers()
        def do_POST(self):
            self.do_GET(); self.wfile.write(json.dumps({"choices": [{"text": text}]}).encode())
    address = ("127.0.0.1", int(re.search(r'listen: "127.0.0.1:(\d+)"', config)[1]))
    http.server.HTTPServer(address, Handler).serve_forever()
'''


class RunGpuChecks(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.write("tools/nvidia-smi", 'echo "NVIDIA H300, 1000 MiB, 600.1"')
        self.write("tools/compute-sanitizer", SANITIZER)
        self.write("pack/bin/cuda_rows_bench", 'echo "rmsnorm 91% of copy bandwidth"')
        self.name_libraries("libc.so.6")
        self.serve(" that walketh not")
        shutil.copy(HERE / "run-gpu-checks", self.folder / "pack")

    def write(self, name, body, interpreter="/bin/sh"):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{interpreter}\n{textwrap.dedent(body)}")
        path.chmod(0o755)

    def name_libraries(self, *names):
        path = self.folder / "pack/share/guildhall/cuda-libraries"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names))

    def serve(self, text):
        self.write("pack/bin/guildhall", GUILDHALL.replace("TEXT", text), "/usr/bin/env python3")

    def run_checks(self, *options):
        env = os.environ | {"PATH": f"{self.folder}/tools:{os.environ['PATH']}"}
        ended = subprocess.run([self.folder / "pack/run-gpu-checks", "--out", self.folder / "out", *options], env=env,
                               capture_output=True, text=True, timeout=200)
        summary = self.folder / "out/summary.md"
        return ended, summary.read_text() if summary.exists() else ""

    def test_all_that_passes_is_in_the_summary(self):
        self.write("pack/bin/gpu_rows_test", PASSES)
        ended, summary = self.run_checks()
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        for words in ("NVIDIA H300, 1000 MiB, 600.1", "All passed.", "| gpu_rows_test | 3 passed |",
                      "the CPU's for 17 characters", "rmsnorm 91% of copy bandwidth",
                      "| memcheck gpu_rows_test | 0 errors |", "| racecheck gpu_rows_test | 0 hazards",
                      "| synccheck gpu_rows_test | 0 errors |"):
            self.assertIn(words, summary)
        self.assertIn("--tool racecheck", (self.folder / "out/racecheck.log").read_text())

    def test_what_fails_is_named_with_the_end_of_its_output(self):
        self.write("pack/bin/gpu_rows_test", FAILS)
        self.write("pack/bin/gpu_skipping_test", SKIPS)
        self.write("pack/bin/gpu_leaky_test", PASSES)
        self.serve("of of of of")
        ended, summary = self.run_checks()
        self.assertEqual(ended.returncode, 1, ended.stdout + ended.stderr)
        self.assertIn("**4 failed: gpu_rows_test, gpu_skipping_test, the demo on the GPU, memcheck gpu_leaky_test**",
                      summary)
        for words in ("rows_test.cu:12: Failure, a row is off", "**failed:** 2 passed, 1 skipped", "5 errors",
                      "| gpu_leaky_test | 3 passed |"):
            self.assertIn(words, summary)

    def test_a_library_that_is_nowhere_fails_and_the_rest_runs(self):
        self.write("pack/bin/gpu_rows_test", PASSES)
        self.name_libraries("libc.so.6", "libguildhall_nowhere.so.9")
        ended, summary = self.run_checks()
        self.assertEqual(ended.returncode, 1, ended.stdout + ended.stderr)
        for words in ("**1 failed: libguildhall_nowhere.so.9**", "LD_LIBRARY_PATH", "| gpu_rows_test | 3 passed |"):
            self.assertIn(words, summary)

    def test_a_test_that_hangs_is_stopped_and_what_had_no_time_failed(self):
        self.write("pack/bin/gpu_rows_test", "sleep 1000")
        ended, summary = self.run_checks("--limit", "3")
        self.assertEqual(ended.returncode, 1, ended.stdout + ended.stderr)
        for words in ("| gpu_rows_test | **failed:** 0 passed of them in time |", "stopped after",
                      "| synccheck gpu_rows_test | **failed:** did not end in time |"):
            self.assertIn(words, summary)

    def test_without_a_device_it_says_so_and_runs_nothing(self):
        self.write("tools/nvidia-smi", 'echo "No devices were found"; exit 6')
        self.write("pack/bin/gpu_rows_test", "touch ran")
        ended, summary = self.run_checks()
        self.assertEqual((ended.returncode, summary), (1, ""), ended.stdout)
        self.assertIn("no CUDA device", ended.stderr)
        self.assertIn("No devices were found", ended.stderr)
        self.assertFalse((self.folder / "pack/ran").exists())


if __name__ == "__main__":
    unittest.main()
