//! How cost grows: one thing is varied, the rest stays as it is. Printed as tables, and kept as CSV and as a plot in
//! `target/growth`.

use std::fmt::Write;
use std::path::Path;

use crate::plot::{self, Curve};
use crate::publisher::{Load, Pace};
use crate::server::{Audience, Server};
use crate::table;
use crate::trial::{Contestant, Recipients, Trial};

/// One thing that is varied.
pub struct Growth {
    pub name: &'static str,
    /// What is varied, as a column's head.
    varied: &'static str,
    points: Vec<Point>,
}

struct Point {
    value: usize,
    clients: usize,
    slow_percent: usize,
    settings: Vec<(&'static str, String)>,
    audience: Audience,
    load: Load,
}

impl Point {
    /// A team of so many, of whom none is slow, and a bridge with its defaults.
    fn team(value: usize, clients: usize, per_second: usize) -> Self {
        let per_second = u32::try_from(per_second).expect("a rate");
        Self {
            value,
            clients,
            slow_percent: 0,
            settings: Vec::new(),
            audience: Audience::team(),
            load: Load {
                // Four seconds.
                events: u64::from(4 * per_second),
                pace: Pace::PerSecond(per_second),
                bytes: 200,
            },
        }
    }
}

/// All that is varied.
pub fn all() -> [Growth; 7] {
    let clients = [100, 300, 1_000, 3_000, 10_000, 15_000, 18_000];
    let events = [10, 30, 100, 200, 300, 400];
    let bytes = [100, 200, 1_024, 4_096, 16_384, 65_536];
    let audiences = [1, 2, 5, 10, 20, 50];
    let slow = [0, 1, 2, 5, 10];
    let windows = [0, 1, 2, 5, 10, 20, 50];
    let window = |milliseconds: usize, point| Point {
        value: milliseconds,
        settings: vec![("SSE_FLUSH_WINDOW_MS", milliseconds.to_string())],
        ..point
    };
    [
        Growth {
            name: "growth-clients",
            varied: "clients, of 50,000 deliveries/s",
            points: clients
                .map(|clients| Point::team(clients, clients, 50_000 / clients))
                .into(),
        },
        Growth {
            name: "growth-events",
            varied: "events/s to 1,000 clients",
            points: events.map(|rate| Point::team(rate, 1_000, rate)).into(),
        },
        Growth {
            name: "growth-payload",
            varied: "bytes, 20 events/s to 200 clients",
            points: bytes
                .map(|bytes| {
                    let point = Point::team(bytes, 200, 20);
                    Point {
                        load: Load {
                            bytes,
                            ..point.load
                        },
                        ..point
                    }
                })
                .into(),
        },
        Growth {
            name: "growth-audiences",
            varied: "audiences of each of 1,000 clients, 50 events/s to one of them",
            points: audiences
                .map(|audiences| {
                    let mut point = Point::team(audiences, 1_000, 50);
                    for number in 1..audiences {
                        write!(point.audience.query, "&channel={number}-{{n}}").expect("memory");
                    }
                    point
                })
                .into(),
        },
        Growth {
            name: "growth-slow",
            varied: "% of 1,000 clients that read nothing, 100 events/s",
            points: slow
                .map(|slow_percent| Point {
                    slow_percent,
                    ..Point::team(slow_percent, 1_000, 100)
                })
                .into(),
        },
        Growth {
            name: "growth-window",
            varied: "flush window in ms, 100 events/s to 1,000 clients",
            points: windows
                .map(|milliseconds| window(milliseconds, Point::team(0, 1_000, 100)))
                .into(),
        },
        Growth {
            name: "growth-window-fast",
            varied: "flush window in ms, 1,000 events/s to 100 clients",
            points: windows
                .map(|milliseconds| window(milliseconds, Point::team(0, 100, 1_000)))
                .into(),
        },
    ]
}

impl Growth {
    pub async fn measure(&self) {
        let head = [
            self.varied,
            "CPU/delivery us",
            "in the kernel %",
            "deliveries/s",
            "p50 ms",
            "p99 ms",
            "lost",
            "KiB/client",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        let (mut cpu, mut p99) = (Vec::new(), Vec::new());
        for point in &self.points {
            let server = Server::bridge(&point.audience, &point.settings).await;
            let contestant = Contestant::new(server, point.clients, point.slow_percent).await;
            let mut contestant = contestant.expect("all are served");
            let warm_up = Load {
                events: point.load.events.div_ceil(4),
                ..point.load
            };
            contestant.trial(&warm_up, Recipients::All).await;
            let trial = contestant.trial(&point.load, Recipients::All).await;
            cpu.push((point.value as f64, trial.cpu_per_delivery()));
            p99.push((point.value as f64, trial.p99_ms()));
            lines.push([
                point.value.to_string(),
                format!("{:.2}", trial.cpu_per_delivery()),
                format!("{:.0}", trial.system_share() * 100.0),
                format!("{:.0}", trial.per_second()),
                format!("{:.2}", trial.p50_ms()),
                format!("{:.2}", trial.p99_ms()),
                trial.lost().to_string(),
                format!("{:.1}", contestant.memory_per_client / 1024.0),
            ]);
        }
        let curves = [
            Curve {
                name: "CPU per delivery, us",
                points: cpu,
            },
            Curve {
                name: "p99, ms",
                points: p99,
            },
        ];
        keep(self.name, &lines, &curves);
    }
}

/// Prints a table, whose first line is its head and whose first column is what is varied, and keeps it.
pub fn keep<const COLUMNS: usize>(name: &str, lines: &[[String; COLUMNS]], curves: &[Curve]) {
    println!("\n{name}:\n{}", table::aligned(lines));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/growth");
    std::fs::create_dir_all(&folder).expect("a folder");
    let csv: String = lines
        .iter()
        .map(|line| format!("\"{}\"\n", line.join("\",\"")))
        .collect();
    let plot = plot::svg(&lines[0][0], curves);
    std::fs::write(folder.join(format!("{name}.csv")), csv).expect("a file");
    std::fs::write(folder.join(format!("{name}.svg")), plot).expect("a file");
}
