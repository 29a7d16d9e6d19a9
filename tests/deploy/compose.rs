//! All on one machine: the Compose file as Docker Compose reads it, and that its services fit each other and the bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;

use crate::{configured, list, output, path, read, run, text};

const FILE: &str = "deploy/compose.yaml";
const READER: &str = "target/tools/bin/compose";

/// The variables without which nothing may start.
const SECRETS: [&str; 5] = [
    "RABBITMQ_PASSWORD",
    "RABBITMQ_ADMIN_PASSWORD",
    "AUTH_JWT_SECRET",
    "EVENT_ID_KEY",
    "GRAFANA_ADMIN_PASSWORD",
];

const GIVEN: [(&str, &str); SECRETS.len()] = [
    (SECRETS[0], "planted-0-0123456789abcdef0123456789"),
    (SECRETS[1], "planted-1-0123456789abcdef0123456789"),
    (SECRETS[2], "planted-2-0123456789abcdef0123456789"),
    (SECRETS[3], "planted-3-0123456789abcdef0123456789"),
    (SECRETS[4], "planted-4-0123456789abcdef0123456789"),
];

static PROJECT: LazyLock<Value> = LazyLock::new(|| {
    let json = output(READER, &[FILE], &GIVEN, "");
    serde_json::from_str(&json).expect("JSON")
});

fn services() -> &'static serde_json::Map<String, Value> {
    PROJECT["services"].as_object().expect("services")
}

fn bridges() -> [&'static Value; 2] {
    ["bridge-1", "bridge-2"].map(|name| &services()[name])
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(service["environment"].clone()).expect("texts")
}

fn address(service: &Value) -> &str {
    text(&service["networks"]["default"]["ipv4_address"])
}

#[test]
fn without_any_one_of_its_secrets_nothing_starts_and_the_message_says_where_to_look() {
    for missing in SECRETS {
        let rest: Vec<_> = GIVEN
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        let read = run(READER, &[FILE], &rest, "");
        let says = String::from_utf8_lossy(&read.stderr);
        assert!(!read.status.success(), "{missing} has a default");
        let explained = format!(
            "required variable {missing} is missing a value: deploy/compose.yaml says at its head how to make it"
        );
        assert!(says.contains(&explained), "{says}");
        for (other, _) in rest {
            assert!(!says.contains(&format!("variable {other} ")), "{says}");
        }
    }
}

#[test]
fn the_command_at_its_head_makes_all_secrets_and_long_enough_for_the_bridge() {
    let file = read(FILE);
    let command = file
        .lines()
        .find_map(|line| line.strip_prefix("#   (umask 077; "))
        .expect("the command");
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("deploy")).expect("a folder");
    let made = Command::new("sh")
        .args(["-ec", &format!("(umask 077; {command}")])
        .current_dir(folder.path())
        .status()
        .expect("a shell");
    assert!(made.success());
    let made = fs::read_to_string(folder.path().join("deploy/.env")).expect("the file");
    let made: BTreeMap<&str, &str> = made
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    assert_eq!(
        made.keys().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from(SECRETS)
    );
    let different: BTreeSet<&str> = made.values().copied().collect();
    assert_eq!(different.len(), SECRETS.len(), "each is its own");

    let given: Vec<(&str, &str)> = made.into_iter().collect();
    let project: Value = serde_json::from_str(&output(READER, &[FILE], &given, "")).expect("JSON");
    configured(&environment(&project["services"]["bridge-1"]));
}

#[test]
fn what_the_bridges_are_told_are_settings_that_serve_takes_without_a_warning() {
    let [one, other] = bridges();
    assert_eq!(environment(one), environment(other));
    let config = configured(&environment(one));
    assert_eq!(config.http.bind.port(), 8080);
    assert_eq!(config.http.admin_bind.port(), 9090);
    assert!(
        config.http.admin_bind.ip().is_unspecified(),
        "Prometheus reaches it"
    );
    assert!(!config.broker.declare, "its user has no right to configure");
    for bridge in bridges() {
        let grace = text(&bridge["stop_grace_period"])
            .strip_suffix('s')
            .expect("seconds");
        let grace = Duration::from_secs(grace.parse().expect("seconds"));
        assert!(grace > config.drain + Duration::from_secs(1), "{grace:?}");
        // Whoever depends on it waits until it can serve.
        let check: Vec<&str> = list(&bridge["healthcheck"]["test"])
            .iter()
            .map(text)
            .collect();
        assert_eq!(
            check,
            ["CMD", "/usr/local/bin/sse-bridge", "check", "--local=ready"]
        );
    }
}

#[test]
fn nginx_has_both_bridges_and_is_the_proxy_that_they_trust() {
    let nginx = &services()["nginx"];
    let named = environment(nginx)["BRIDGES"].clone();
    let there = bridges().map(|bridge| format!("{}:8080", address(bridge)));
    assert_eq!(named.split(' ').collect::<Vec<_>>(), there);
    let trusted = &environment(bridges()[0])["HTTP_TRUSTED_PROXIES"];
    assert_eq!(trusted, address(nginx));
}

#[test]
fn the_boards_page_may_ask_the_bridges_itself_with_the_cookie_that_it_sets() {
    let bridge = environment(bridges()[0]);
    let web = &services()["web"];
    assert_eq!(
        bridge.get("AUTH_COOKIE"),
        environment(web).get("AUTH_COOKIE")
    );
    assert!(bridge.contains_key("AUTH_COOKIE"));
    // A browser may call this machine by either name.
    let port = text(&list(&web["ports"])[0]["published"]);
    let allowed: BTreeSet<&str> = bridge["HTTP_CORS_ORIGINS"].split(',').collect();
    let pages = ["127.0.0.1", "localhost"].map(|name| format!("http://{name}:{port}"));
    assert_eq!(allowed, pages.iter().map(String::as_str).collect());
    // It finds the bridge on the port that it knows it by, which is therefore the one that nginx has on this machine.
    let known = environment(web)["BRIDGE_URL"].clone();
    let nginx = text(&list(&services()["nginx"]["ports"])[0]["published"]);
    assert_eq!(known, format!("http://nginx:{nginx}"));
}

#[test]
fn what_nginx_is_given_for_compose_is_the_shipped_configuration_without_tls_and_nginx_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let bridges = environment(&services()["nginx"])["BRIDGES"].clone();
    let shipped = path("deploy/nginx/sse-bridge.conf").display().to_string();
    let made = place("default.conf");
    output(
        "deploy/nginx/plain.sh",
        &[&shipped, &made],
        &[("BRIDGES", &bridges)],
        "",
    );
    let text = fs::read_to_string(&made).expect("what was made");
    for part in ["listen 8080;", "proxy_buffering off;", "return 444;"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for server in bridges.split(' ') {
        assert!(
            text.contains(&format!("server {server};")),
            "{server}: {text}"
        );
    }
    // Those that nginx has by default are root's.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", place(kind)))
        .concat();
    let around = format!(
        "pid {};\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; {temporary} include {made}; }}\n",
        place("nginx.pid")
    );
    fs::write(place("nginx.conf"), around).expect("a file");
    output(
        "/usr/sbin/nginx",
        &["-t", "-c", &place("nginx.conf")],
        &[],
        "",
    );

    // Of another configuration it makes nothing, rather than something else.
    let other = place("other.conf");
    fs::write(&other, text.replace("listen 8080;", "listen 80;")).expect("a file");
    let refused = run(
        "deploy/nginx/plain.sh",
        &[&other, &place("no.conf")],
        &[("BRIDGES", &bridges)],
        "",
    );
    assert!(!refused.status.success());
}

#[test]
fn what_is_mounted_and_built_is_there() {
    let mut mounted = 0;
    for (name, service) in services() {
        for mount in service["volumes"].as_array().into_iter().flatten() {
            let source = text(&mount["source"]);
            if mount["type"] == "bind" {
                assert!(
                    Path::new(source).exists(),
                    "{name} mounts {source}, which is not there"
                );
                assert_eq!(mount["read_only"], true, "{name} may write to {source}");
                mounted += 1;
            } else {
                assert!(PROJECT["volumes"].get(source).is_some(), "{name}: {source}");
            }
        }
        if let Some(build) = service.get("build") {
            let context = Path::new(text(&build["context"]));
            let dockerfile = build["dockerfile"].as_str().unwrap_or("Dockerfile");
            assert!(context.join(dockerfile).is_file(), "{name}: {dockerfile}");
            assert!(context.join(".dockerignore").is_file(), "{name}");
        } else {
            let image = text(&service["image"]);
            let tag = image.rsplit_once(':').map(|(_, tag)| tag);
            assert!(
                tag.is_some_and(|tag| tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v')),
                "{name}: {image} is another one tomorrow"
            );
        }
    }
    assert!(mounted >= 8, "only {mounted} mounts were found");
}

#[test]
fn prometheus_scrapes_both_bridges_and_grafana_asks_that_prometheus() {
    let scraped = read("deploy/prometheus/prometheus.yml");
    for name in ["bridge-1", "bridge-2"] {
        assert!(services().contains_key(name));
        assert!(
            scraped.contains(&format!("{name}:9090")),
            "{name}: {scraped}"
        );
    }
    let asked = read("deploy/grafana/provisioning/datasources/prometheus.yaml");
    assert!(asked.contains("url: http://prometheus:9090\n"), "{asked}");
    let provider = read("deploy/grafana/provisioning/dashboards/sse-bridge.yaml");
    let folder = provider
        .lines()
        .find_map(|line| line.trim().strip_prefix("path: "))
        .expect("a folder");
    let mounts = list(&services()["grafana"]["volumes"]);
    let dashboard = mounts
        .iter()
        .find(|mount| text(&mount["source"]).ends_with("deploy/grafana/dashboard.json"))
        .expect("the dashboard is mounted");
    assert!(
        text(&dashboard["target"]).starts_with(folder),
        "{dashboard}"
    );
}

#[test]
fn ports_are_open_to_this_machine_only_and_the_admin_listener_to_nobody_outside() {
    let mut published = BTreeSet::new();
    for (name, service) in services() {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name}: {port}");
            assert!(
                published.insert(text(&port["published"])),
                "{name}: {port} is taken"
            );
        }
    }
    assert!(published.len() >= 5, "{published:?}");
    for bridge in bridges() {
        assert_eq!(bridge.get("ports"), None, "clients come through nginx");
    }
}

#[test]
fn nothing_that_is_ours_runs_as_root_or_writes_to_its_disk() {
    for name in [
        "bridge-1",
        "bridge-2",
        "nginx",
        "web",
        "prometheus",
        "grafana",
    ] {
        let service = &services()[name];
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        let options = service["security_opt"].to_string();
        assert!(
            options.contains("no-new-privileges:true"),
            "{name}: {options}"
        );
    }
}

#[test]
fn services_start_in_the_order_of_their_health() {
    let waits = |name: &str| -> BTreeSet<&str> {
        let all = services()[name]["depends_on"]
            .as_object()
            .expect("somebody");
        for (other, wait) in all {
            assert_eq!(wait["condition"], "service_healthy", "{name} for {other}");
            let checked = services()[other].get("healthcheck").is_some();
            assert!(checked, "{other} says nothing of its health");
        }
        all.keys().map(String::as_str).collect()
    };
    assert_eq!(waits("bridge-1"), BTreeSet::from(["rabbitmq"]));
    assert_eq!(waits("bridge-2"), BTreeSet::from(["rabbitmq"]));
    assert_eq!(waits("nginx"), BTreeSet::from(["bridge-1", "bridge-2"]));
    assert_eq!(waits("web"), BTreeSet::from(["nginx"]));
    assert_eq!(waits("grafana"), BTreeSet::from(["prometheus"]));
}

#[test]
fn the_secrets_go_to_those_that_need_them_and_stand_in_no_file() {
    let holders = |secret: &str| -> BTreeSet<&str> {
        services()
            .iter()
            .filter(|(_, service)| service.to_string().contains(secret))
            .map(|(name, _)| name.as_str())
            .collect()
    };
    let [broker, admin, tokens, ids, grafana] = GIVEN.map(|(_, value)| holders(value));
    let both = BTreeSet::from(["bridge-1", "bridge-2"]);
    assert_eq!(broker, both);
    assert_eq!(admin, BTreeSet::new());
    assert_eq!(tokens, BTreeSet::from(["bridge-1", "bridge-2", "web"]));
    assert_eq!(ids, both);
    assert_eq!(grafana, BTreeSet::from(["grafana"]));
    let users = text(&PROJECT["configs"]["rabbitmq-users"]["content"]);
    let users: Value = serde_json::from_str(users).expect("JSON");
    let passwords: Vec<&str> = list(&users["users"])
        .iter()
        .map(|user| text(&user["password"]))
        .collect();
    assert_eq!(passwords, [GIVEN[0].1, GIVEN[1].1]);
    // The rest of the definitions is a file in the repository.
    let topology = read("deploy/rabbitmq/topology.json");
    assert!(!topology.contains("password"), "{topology}");
}
