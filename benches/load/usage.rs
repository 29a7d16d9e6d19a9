//! What processes take: processor time by the scheduler's clock, and memory.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Processor time, of all processes of a server together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// By the scheduler, to the nanosecond, threads that have ended included: the sum of what `/proc/<pid>/task/*/schedstat` says
    /// of those that run.
    pub total: Duration,
    /// The share of it that was spent in the kernel, by ticks.
    pub system: Duration,
}

impl Cpu {
    pub fn of(pids: &[u32]) -> Self {
        let mut cpu = Self::default();
        for pid in pids {
            let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(*pid).expect("a pid")))
                .expect("the process runs");
            cpu.total += Duration::from(clock_gettime(clock).expect("a clock that is there"));
            cpu.system += system_time(*pid);
        }
        cpu
    }

    /// What was used since an earlier moment.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// The processor time of this process, in nanoseconds.
pub fn own_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every process has one");
    u64::try_from(Duration::from(time).as_nanos()).expect("less than centuries")
}

/// Field 15 of proc_pid_stat(5), in ticks of a hundredth of a second; the name, field 2, may hold spaces.
fn system_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields
        .split_whitespace()
        .nth(12)
        .and_then(|ticks| ticks.parse().ok());
    Duration::from_millis(10 * ticks.unwrap_or(0_u64))
}

/// The memory that processes hold in bytes, what they share counted once.
pub fn resident_bytes(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process runs");
        field(&text, "Pss:") * 1024
    };
    pids.iter().map(of).sum()
}

/// What the kernel holds for sockets and files, in bytes: its slabs, and the pages of TCP's buffers. Of this whole machine, so of both
/// ends of each connection.
pub fn kernel_bytes() -> u64 {
    let read = |path| std::fs::read_to_string(path).expect("proc is mounted");
    let slab = field(&read("/proc/meminfo"), "Slab:") * 1024;
    let sockets = read("/proc/net/sockstat");
    let tcp = sockets
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap_or_default();
    slab + field(tcp, "mem") * 4096
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .expect("the process runs");
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The number behind a name.
fn field(text: &str, name: &str) -> u64 {
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != name)
        .skip(1);
    words
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}
