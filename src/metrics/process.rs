//! The standard `process_*` metrics, read from `/proc` when Prometheus asks. The collector of the `prometheus` crate
//! does the same through a second, older copy of `procfs` and `rustix`.

use std::sync::Mutex;

use procfs::process::{LimitValue, Process};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// What this process takes from its machine. Where `/proc` cannot be read, the last values stand.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    process: Option<Process>,
    /// Guards the step from the CPU time told last to that of now.
    cpu_seconds: Mutex<Counter>,
    gauges: [Gauge; 6],
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
        let [open, max, virtual_memory, resident, started, threads] = &self.gauges;
        open.set(process.fd_count()? as f64);
        max.set(match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => limit as f64,
            LimitValue::Unlimited => f64::INFINITY,
        });
        virtual_memory.set(stat.vsize as f64);
        resident.set((stat.rss * procfs::page_size()) as f64);
        started.set(stat.starttime as f64 / ticks + procfs::boot_time_secs()? as f64);
        threads.set(stat.num_threads as f64);
        if let Ok(cpu_seconds) = self.cpu_seconds.lock() {
            let now = (stat.utime + stat.stime) as f64 / ticks;
            cpu_seconds.inc_by((now - cpu_seconds.get()).max(0.0));
        }
        Ok(())
    }
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
