//! What Prometheus makes of the bridge: rules that are tried out, and alerts that fire where they should.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::command;

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = command("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool starts; `make setup` installs it");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The names behind each `- <what>: ` of a file.
fn named(text: &str, what: &str) -> Vec<String> {
    let begin = format!("- {what}: ");
    let names = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(&begin));
    names.map(str::to_owned).collect()
}

#[test]
fn prometheus_can_use_its_configuration_and_the_rules_that_it_names() {
    promtool(&["check", "config"], &deployed("prometheus/prometheus.yml"));
}

#[test]
fn every_alert_fires_for_who_is_ill_and_for_nobody_else() {
    let cases =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broker/monitoring/alerts.test.yml");
    promtool(&["test", "rules"], &cases);

    let text = read(&cases);
    let (_, tests) = text.split_once("\ntests:\n").expect("tests");
    for test in tests.split("\n\n") {
        let name = named(test, "name").remove(0);
        assert!(
            test.contains("exp_samples: []"),
            "{name}: where it is quiet"
        );
        assert!(
            test.contains(&format!("- labels: 'ALERTS{{alertname=\"{name}\"")),
            "{name}: where it fires"
        );
    }
    let alerts = named(&read(deployed("prometheus/alerts.yml")), "alert");
    assert!(alerts.len() > 30, "only {alerts:?}");
    assert_eq!(named(tests, "name"), alerts, "cases, and alerts");
}
