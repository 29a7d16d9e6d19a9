//! The standard `process_*` metrics, and the limit of memory with what counts to it, read from `/proc` and `/sys` when Prometheus asks. The collector
//! of the `prometheus` crate does the former through a second, older copy of `procfs` and `rustix`.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use procfs::process::{LimitValue, Process};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Where Linux shows control groups of version 2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What this process takes from its machine. Where `/proc` cannot be read, the last values stand.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    process: Option<Process>,
    /// Guards the step from the CPU time told last to that of now.
    cpu_seconds: Mutex<Counter>,
    gauges: [Gauge; 8],
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    /// Makes the series; a machine without `/proc` shows zeros.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let cpu_seconds = Counter::with_opts(Opts::new(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        ))?;
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let gauges = [
            gauge("process_open_fds", "Number of open file descriptors.")?,
            gauge(
                "process_max_fds",
                "Maximum number of open file descriptors.",
            )?,
            gauge(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            )?,
            gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            gauge(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
            gauge("process_threads", "Number of OS threads in the process.")?,
            Gauge::with_opts(
                Opts::new(
                    "memory_limit_bytes",
                    "Least limit of memory of this process' control groups (version 2); 0 without one.",
                )
                .namespace(super::PREFIX),
            )?,
            Gauge::with_opts(
                Opts::new(
                    "memory_working_set_bytes",
                    "Memory that counts to that limit and cannot be taken back: this process', the kernel's for its sockets; 0 without one.",
                )
                .namespace(super::PREFIX),
            )?,
        ];
        let descriptions = cpu_seconds
            .desc()
            .into_iter()
            .chain(gauges.iter().flat_map(Collector::desc))
            .cloned()
            .collect();
        Ok(Self {
            process: Process::myself().ok(),
            cpu_seconds: Mutex::new(cpu_seconds),
            gauges,
            descriptions,
        })
    }

    /// Reads `/proc/self`. Rates and sizes are far below 2^52, so that `f64` holds them exactly.
    #[expect(clippy::cast_precision_loss, reason = "no figure here comes near 2^52")]
    fn read(&self, process: &Process) -> procfs::ProcResult<()> {
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        let [
            open,
            max,
            virtual_memory,
            resident,
            started,
            threads,
            limit,
            working_set,
        ] = &self.gauges;
        open.set(process.fd_count()? as f64);
        max.set(match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => limit as f64,
            LimitValue::Unlimited => f64::INFINITY,
        });
        virtual_memory.set(stat.vsize as f64);
        resident.set((stat.rss * procfs::page_size()) as f64);
        started.set(stat.starttime as f64 / ticks + procfs::boot_time_secs()? as f64);
        threads.set(stat.num_threads as f64);
        let group = limiting_group(process);
        limit.set(group.as_ref().map_or(0, |group| group.limit) as f64);
        working_set.set(group.map_or(0, |group| group.working_set) as f64);
        if let Ok(cpu_seconds) = self.cpu_seconds.lock() {
            let now = (stat.utime + stat.stime) as f64 / ticks;
            cpu_seconds.inc_by((now - cpu_seconds.get()).max(0.0));
        }
        Ok(())
    }
}

/// A control group with a limit of memory. In bytes.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    limit: u64,
    /// What counts to the limit, less what the kernel drops before it kills: pages of files that nobody uses.
    working_set: u64,
}

/// The group whose limit of memory this process meets first, if it has one.
fn limiting_group(process: &Process) -> Option<Group> {
    // Hierarchy 0 is that of version 2, which has one for all controllers.
    let groups = process.cgroups().ok()?;
    let own = groups.into_iter().find(|group| group.hierarchy == 0)?;
    least_limit(Path::new(CGROUPS), Path::new(&own.pathname))
}

/// The control group with the least `memory.max` of this one and those above it. The root has none, but that of a container has.
fn least_limit(root: &Path, group: &Path) -> Option<Group> {
    let below_root = group.strip_prefix("/").unwrap_or(group);
    let limited = below_root.ancestors().filter_map(|group| {
        let folder = root.join(group);
        // Where there is no limit it says `max`.
        let limit: u64 = number(&fs::read_to_string(folder.join("memory.max")).ok()?)?;
        Some((limit, folder))
    });
    let (limit, folder) = limited.min_by_key(|(limit, _)| *limit)?;
    Some(Group {
        limit,
        working_set: working_set(&folder).unwrap_or(0),
    })
}

fn working_set(group: &Path) -> Option<u64> {
    let charged = number(&fs::read_to_string(group.join("memory.current")).ok()?)?;
    let parts = fs::read_to_string(group.join("memory.stat")).ok()?;
    let droppable = parts
        .lines()
        .find_map(|line| number(line.strip_prefix("inactive_file ")?))?;
    // Read one after the other, these may not fit together.
    Some(charged.saturating_sub(droppable))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(Err(error)) = self.process.as_ref().map(|process| self.read(process)) {
            tracing::debug!(%error, "cannot read /proc/self; the process metrics keep their last values");
        }
        let cpu_seconds = self
            .cpu_seconds
            .lock()
            .map(|counter| counter.collect())
            .unwrap_or_default();
        cpu_seconds
            .into_iter()
            .chain(self.gauges.iter().flat_map(Collector::collect))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_memory_is_the_least_of_all_groups_that_hold_the_process() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("slice/pod");
        fs::create_dir_all(&group).unwrap();
        let limit_at =
            |group: &str| least_limit(root.path(), Path::new(group)).map(|group| group.limit);
        let limits = |own: &str| {
            fs::write(group.join("memory.max"), own).unwrap();
            limit_at("/slice/pod")
        };
        assert_eq!(limits("max\n"), None);
        assert_eq!(limits("4096\n"), Some(4096));
        fs::write(root.path().join("slice/memory.max"), "1024\n").unwrap();
        assert_eq!(limits("4096\n"), Some(1024));
        assert_eq!(limits("max\n"), Some(1024));
        // As a container sees it, whose own group is the root.
        fs::write(root.path().join("memory.max"), "512\n").unwrap();
        assert_eq!(limit_at("/"), Some(512));
    }

    #[test]
    fn what_counts_to_the_limit_is_all_that_its_group_is_charged_but_for_pages_of_files_that_can_go()
     {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, limit: &str, current: &str, inactive_file: &str| {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), limit).unwrap();
            fs::write(folder.join("memory.current"), current).unwrap();
            // Sockets are in none of the process' own figures, and this is why the group is asked.
            let stat =
                format!("anon 300\nsock 500\nactive_file 20\ninactive_file {inactive_file}\n");
            fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        write("pod", "2000\n", "1500\n", "10");
        write("pod/container", "1000\n", "900\n", "80");
        let group = |name: &str| least_limit(root.path(), Path::new(name)).unwrap();
        let (limit, working_set) = (1000, 820);
        assert_eq!(group("/pod/container"), Group { limit, working_set });
        // The figure is of the group that has the limit.
        write("pod/container", "max\n", "900\n", "80");
        assert_eq!(group("/pod/container").working_set, 1490);
        write("pod", "2000\n", "5\n", "10");
        assert_eq!(group("/pod").working_set, 0);
    }
}
