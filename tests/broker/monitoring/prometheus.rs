//! A real Prometheus, Debian's, that scrapes twice a second and is asked over HTTP.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{SOON, command, eventually, free_port, new_folder, request};

/// A server and its data. Killed when dropped.
pub(super) struct Prometheus {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Prometheus {
    /// Scrapes these as one service, and evaluates these files of rules.
    pub(super) async fn start(targets: &[SocketAddr], rules: &[PathBuf]) -> Self {
        let folder = new_folder("prometheus");
        let list = |texts: Vec<String>| format!("[{}]", texts.join(", "));
        let quoted = |path: &PathBuf| format!("'{}'", path.display());
        let configuration = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\nrule_files: {}\nscrape_configs:\n\
             - job_name: sse-bridge\n  static_configs: [{{targets: {}}}]\n",
            list(rules.iter().map(quoted).collect()),
            list(targets.iter().map(|target| format!("'{target}'")).collect()),
        );
        fs::write(folder.join("prometheus.yml"), configuration).expect("a file");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = File::create(folder.join("log")).expect("a file");
        let process = command("prometheus")
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts; `make setup` installs it");
        let prometheus = Self {
            process,
            address,
            folder,
        };
        eventually("Prometheus is ready", SOON, async || {
            let answer = request(address, "GET", "/-/ready", &[], "").await.ok()?;
            (answer.head.status == 200).then_some(())
        })
        .await;
        prometheus
    }

    /// The values that an expression has now, of which there may be none.
    pub(super) async fn query(&self, expression: &str) -> Vec<f64> {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", expression)
            .finish();
        let data = self.get(&format!("/api/v1/query?{query}")).await;
        let series = data["result"].as_array().expect("a result");
        let value = |series: &Value| series["value"][1].as_str()?.parse().ok();
        series
            .iter()
            .map(|series| value(series).unwrap_or_else(|| panic!("no number: {series}")))
            .collect()
    }

    /// Waits until an expression has a value, whichever.
    pub(super) async fn wait_for(&self, expression: &str) {
        self.wait_within(expression, SOON).await;
    }

    pub(super) async fn wait_within(&self, expression: &str, limit: Duration) {
        eventually(&format!("{expression} has a value"), limit, async || {
            (!self.query(expression).await.is_empty()).then_some(())
        })
        .await;
    }

    /// Waits until every rule was evaluated, and panics for one that cannot be.
    pub(super) async fn wait_until_all_rules_are_well(&self) {
        eventually("every rule was evaluated", SOON, async || {
            let data = self.get("/api/v1/rules").await;
            let groups = data["groups"].as_array().expect("groups");
            let rules: Vec<&Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().expect("rules"))
                .collect();
            assert!(rules.len() > 50, "only {} rules", rules.len());
            for rule in &rules {
                assert_ne!(rule["health"], "err", "{rule}");
            }
            rules
                .iter()
                .all(|rule| rule["health"] == "ok")
                .then_some(())
        })
        .await;
    }

    /// What the alerts that stand now say.
    pub(super) async fn descriptions(&self) -> Vec<String> {
        let data = self.get("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().expect("alerts");
        let description = |alert: &Value| {
            alert["annotations"]["description"]
                .as_str()
                .map(str::to_owned)
        };
        alerts.iter().filter_map(description).collect()
    }

    async fn get(&self, target: &str) -> Value {
        let answer = request(self.address, "GET", target, &[], "")
            .await
            .expect("Prometheus answers");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(answer.head.status, 200, "{target}: {body}\n{}", self.log());
        body["data"].clone()
    }

    fn log(&self) -> String {
        fs::read_to_string(Path::new(&self.folder).join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("Prometheus' log:\n{}", self.log());
        }
    }
}
