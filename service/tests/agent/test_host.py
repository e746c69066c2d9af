"""Figures of hosts: the parsers, on what the systems write, and the readers on this one."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from athena.agent.commands import CommandError, run
from athena.agent.host import linux, macos
from athena.agent.host.figures import Row, disk_space, model_in, with_descendants

MEMINFO = """MemTotal:       65774132 kB
MemFree:         1234567 kB
MemAvailable:   40123456 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""
STAT = (
    "4242 (mlx) lm (server) S 1 4242 4242 0 -1 4194560 90210 0 12 0 1500 250 0 0 20 0 12 0 360000 "
    "5368709120 262144 18446744073709551615 1 1 0 0 0 0 0 16781312 17642 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1
   2: 0100007F:C350 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
   3: 0100007F:1F91 0100007F:C352 08 00000000:00000000 00:00000000 00000000  1000        0 4 1 0 20 4 30 10 -1
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                                   100000.
Pages active:                                3000000.
Pages inactive:                               200000.
Pages speculative:                             30000.
Pages throttled:                                   0.
Pages wired down:                             500000.
Pages purgeable:                                4000.
"Translation faults":                      999999999.
Pages copy-on-write:                         5732353.
"""
NO_THERM = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
INTEL_THERM = """Note: No thermal warning level has been recorded
2026-01-05 17:10:00 +0300 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= 72
"""
IOREG = """+-o AGXAcceleratorG14X  <class AGXAcceleratorG14X, id 0x100000587, registered, matched, active, busy 0>
    {
      "model" = "Apple M2 Max"
      "PerformanceStatistics" = {"In use system memory (driver)"=0,"Alloc system memory"=52967440384,\
"Tiler Utilization %"=10,"recoveryCount"=0,"Renderer Utilization %"=90,"Device Utilization %"=91}
    }
"""
PS = """    1     0  21504   12:34.56 12-03:04:05
  501     1 123456    0:10.50    01:02:03
  777   501  65536    1:00.00       05:06
  900     1   1024    0:00.01       00:01
garbage
"""
NETSTAT = """Active Internet connections (including servers)
Proto Recv-Q Send-Q  Local Address          Foreign Address        (state)
tcp4       0      0  127.0.0.1.8081         127.0.0.1.52345        ESTABLISHED
tcp4       0      0  127.0.0.1.52345        127.0.0.1.8081         ESTABLISHED
tcp4       0      0  127.0.0.1.8081         *.*                    LISTEN
tcp4       0      0  192.0.2.5.18081        192.0.2.6.50000        ESTABLISHED
tcp6       0      0  ::1.8081               ::1.50001              CLOSE_WAIT
"""


def test_the_memory_of_a_linux_host_is_read() -> None:
    assert linux.parse_meminfo(MEMINFO) == (65774132 * 1024, 40123456 * 1024)
    assert linux.parse_meminfo("") == (None, None)


def test_the_uptime_of_a_linux_host_is_read() -> None:
    assert linux.parse_uptime("35413.27 60123.10\n") == 35413.27
    assert linux.parse_uptime("") is None


@pytest.mark.parametrize(
    ("text", "degrees"), [("48500\n", 48.5), ("-274000\n", None), ("", None), ("4294967295", None)]
)
def test_a_temperature_that_no_sensor_measures_is_left_out(text: str, degrees: float | None) -> None:
    assert linux.parse_temperature(text) == degrees


def test_a_process_of_linux_is_read_whatever_its_name_holds() -> None:
    row = linux.parse_stat(STAT, ticks=100, page=4096, uptime=4000.0)
    assert row == Row(pid=4242, parent=1, resident=262144 * 4096, cpu_seconds=17.5, age=400.0)


def test_open_connections_to_a_port_are_counted_from_its_own_side() -> None:
    assert linux.parse_connections(TCP, 0x1F91) == 1
    assert linux.parse_connections(TCP, 0xC350) == 1
    assert linux.parse_connections(TCP, 1) == 0
    assert macos.parse_connections(NETSTAT, 8081) == 1


def test_the_memory_of_a_mac_is_read() -> None:
    assert macos.parse_vm_stat(VM_STAT) == ((100000 + 200000 + 30000 + 4000) * 16384, 500000 * 16384)
    assert macos.parse_vm_stat("vm_stat: failed") == (None, None)
    assert macos.parse_number("68719476736\n") == 68719476736
    assert macos.parse_number("sysctl: unknown oid 'hw.memsize'") is None


@pytest.mark.parametrize(("text", "limit"), [("57344\n", 57344 * 1024 * 1024), ("0\n", None), ("", None)])
def test_a_limit_of_wired_memory_is_told_where_somebody_has_set_it(text: str, limit: int | None) -> None:
    assert macos.parse_wired_limit(text) == limit


def test_the_start_of_a_mac_gives_its_uptime() -> None:
    text = "{ sec = 1700000000, usec = 123456 } Tue Nov 14 22:13:20 2023\n"
    assert macos.parse_boot_time(text, 1700003600.0) == 3600.0
    assert macos.parse_boot_time("", 1.0) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NO_THERM, (0, None)),
        (INTEL_THERM, (0, 72.0)),
        ("Note: Thermal warning level 2 recorded\n", (2, None)),
        ("Thermal Warning Level = 1\n", (1, None)),
        ("", (None, None)),
    ],
)
def test_the_heat_of_a_mac_is_told_as_far_as_pmset_tells_it(
    text: str, expected: tuple[int | None, float | None]
) -> None:
    assert macos.parse_thermal(text) == expected


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("com.apple.system.thermalpressurelevel 0\n", 0),
        ("com.apple.system.thermalpressurelevel 2\n", 2),
        ("com.apple.system.thermalpressurelevel\n", None),
        ("com.apple.system.thermalpressurelevel: failed\n", None),
        ("7\n", None),
        ("", None),
    ],
)
def test_the_thermal_pressure_of_a_mac_is_told_where_no_warning_is_recorded(text: str, level: int | None) -> None:
    assert macos.parse_pressure(text) == level


def test_the_gpu_of_a_mac_is_read() -> None:
    assert macos.parse_gpu(IOREG) == 91.0
    assert macos.parse_gpu("") is None


def test_a_process_of_a_mac_is_read_with_its_descendants() -> None:
    rows = macos.parse_ps(PS)
    assert rows[0] == Row(pid=1, parent=0, resident=21504 * 1024, cpu_seconds=754.56, age=12 * 86400 + 11045)
    both = with_descendants(rows, 501, ())
    assert both is not None
    assert (both.resident, both.cpu_seconds, both.age) == ((123456 + 65536) * 1024, 70.5, 3723)
    assert with_descendants(rows, 4, ()) is None


def test_processes_that_are_each_others_parents_do_not_go_round_for_ever() -> None:
    rows = [Row(1, 2, 10, 1.0, 1.0), Row(2, 1, 20, 2.0, 2.0)]
    both = with_descendants(rows, 1, ())
    assert both is not None
    assert both.resident == 30


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (("python", "mlx_lm.server", "--model", "a/b", "--port", "1"), "a/b"),
        (("mlx_lm.server", "--model=a/b"), "a/b"),
        (("mlx_lm.server", "--model"), None),
        ((), None),
    ],
)
def test_the_model_of_a_command_line_is_found(arguments: tuple[str, ...], model: str | None) -> None:
    assert model_in(arguments) == model


def test_a_folder_that_is_not_there_has_no_space() -> None:
    assert disk_space(Path("/nowhere/at/all")) == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_this_process_is_found_on_this_host() -> None:
    host = linux.LinuxHost(Path("/"))
    mine = await host.process(os.getpid())
    assert mine is not None
    assert mine.resident > 10_000_000
    assert mine.cpu_seconds > 0
    assert mine.arguments
    assert await host.process(2**22 + 1) is None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert await host.connections(port) == 0
        with socket.create_connection(("127.0.0.1", port)):
            assert await host.connections(port) == 1


async def test_sensors_of_linux_are_named_by_zone_and_type(tmp_path: Path) -> None:
    for number, (kind, value) in enumerate([("x86_pkg_temp", "51000"), ("x86_pkg_temp", "49000"), ("off", "-274000")]):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{value}\n")
    figures = await linux.LinuxHost(tmp_path, proc=tmp_path, thermal=tmp_path).figures()
    assert figures.temperatures == {"0:x86_pkg_temp": 51.0, "1:x86_pkg_temp": 49.0}
    assert figures.memory_total is None
    assert figures.disk_free is not None


ANSWERS = {
    "sysctl -n hw.memsize": "68719476736\n",
    "sysctl -n iogpu.wired_limit_mb": "57344\n",
    "sysctl -n kern.boottime": "{ sec = 1700000000, usec = 1 } Tue Nov 14 22:13:20 2023\n",
    "vm_stat": VM_STAT,
    "pmset -g therm": NO_THERM,
    "notifyutil -g com.apple.system.thermalpressurelevel": "com.apple.system.thermalpressurelevel 2\n",
    "ioreg -r -d 1 -w 0 -c IOAccelerator": IOREG,
    "ps -axo pid=,ppid=,rss=,time=,etime=": PS,
    "ps -ww -o args= -p 501": "/opt/mlx/bin/python /opt/mlx/bin/mlx_lm.server --model '/Models/My Model'\n",
    "netstat -an -p tcp": NETSTAT,
}


async def test_a_mac_is_read_by_the_programs_of_macos() -> None:
    async def answer(arguments: Sequence[str], within: float) -> str:
        return ANSWERS[" ".join(arguments)]

    host = macos.MacHost(answer, Path("/"))
    figures = await host.figures()
    assert (figures.memory_total, figures.memory_wired_limit) == (68719476736, 57344 * 1024 * 1024)
    assert (figures.thermal_warning, figures.thermal_pressure, figures.gpu_percent) == (0, 2, 91.0)
    process = await host.process(501)
    assert process is not None
    assert model_in(process.arguments) == "/Models/My Model"
    assert await host.connections(8081) == 1


async def test_a_program_that_a_mac_lacks_costs_its_own_figures_alone() -> None:
    async def fail(arguments: Sequence[str], within: float) -> str:
        if arguments[0] == "vm_stat":
            return VM_STAT
        raise CommandError("no such program")

    host = macos.MacHost(fail, Path("/"))
    figures = await host.figures()
    assert figures.memory_available is not None
    assert (figures.memory_total, figures.gpu_percent) == (None, None)
    assert (figures.thermal_warning, figures.thermal_pressure) == (None, None)
    assert await host.process(501) is None
    assert await host.connections(8081) is None


async def test_programs_are_run_and_what_goes_wrong_with_them_is_told() -> None:
    assert await run(["echo", "$HOME; true"], 30.0) == "$HOME; true\n"  # there is no shell
    with pytest.raises(CommandError, match="cannot be run: No such file"):
        await run(["/nowhere/program"], 30.0)
    with pytest.raises(CommandError, match=r"exit status 3: it is broken"):
        await run([sys.executable, "-c", "import sys; print('it is\\nbroken', file=sys.stderr); sys.exit(3)"], 30.0)
    async with asyncio.timeout(30):
        with pytest.raises(CommandError, match=r"not done within 0\.2 s"):
            await run(["sleep", "600"], 0.2)
