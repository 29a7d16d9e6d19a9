//! In a cluster: what kustomize makes of base and overlay, judged by Kubernetes' own schemas, and held against what the bridge
//! promises and needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use sse_bridge::config::Config;
use sse_bridge::config::Secrecy;
use sse_bridge::config::settings::{SETTINGS, Setting};
use sse_bridge::metrics::Metrics;

use crate::{configured, list, output, read, run, text};

const BASE: &str = "deploy/kubernetes/base";
const OVERLAY: &str = "deploy/kubernetes/overlays/production";
const KUSTOMIZE: &str = "target/tools/bin/kustomize";
const PYTHON: &str = "target/deploy-venv/bin/python";
const VALIDATE: [&str; 3] = [
    "-B",
    "tests/deploy/validate.py",
    "target/tools/servicemonitors-v0.85.0.yaml",
];

/// The YAML that `kubectl apply -k` would send.
fn built(folder: &str) -> String {
    output(KUSTOMIZE, &["build", folder], &[], "")
}

/// The objects, each found good.
fn judged(yaml: &str) -> Vec<Value> {
    output(PYTHON, &VALIDATE, &[], yaml)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

static PRODUCTION: LazyLock<Vec<Value>> = LazyLock::new(|| judged(&built(OVERLAY)));

fn of_kind(kind: &str) -> Vec<&'static Value> {
    PRODUCTION
        .iter()
        .filter(|each| each["kind"] == kind)
        .collect()
}

fn only(kind: &str) -> &'static Value {
    let [one] = of_kind(kind)[..] else {
        panic!("one {kind} is expected")
    };
    one
}

fn pod() -> &'static Value {
    &only("Deployment")["spec"]["template"]["spec"]
}

fn container() -> &'static Value {
    let [one] = &list(&pod()["containers"])[..] else {
        panic!("one container is expected")
    };
    one
}

fn settings() -> BTreeMap<String, String> {
    serde_json::from_value(only("ConfigMap")["data"].clone()).expect("texts")
}

fn config() -> Config {
    configured(&settings())
}

/// The settings that name the file of a secret, with that file.
fn secret_files() -> BTreeMap<&'static str, String> {
    let settings = settings();
    let file = |setting: &Setting| Some((setting.file()?, settings.get(setting.file()?)?.clone()));
    SETTINGS.iter().filter_map(file).collect()
}

#[test]
fn kubernetes_takes_the_base_and_the_overlay_and_knows_every_field() {
    let kinds = |things: &[Value]| -> Vec<String> {
        let mut kinds: Vec<String> = things
            .iter()
            .map(|each| text(&each["kind"]).to_owned())
            .collect();
        kinds.sort_unstable();
        kinds
    };
    let base = [
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds(&judged(&built(BASE))), base);
    let added = [
        "HorizontalPodAutoscaler",
        "Ingress",
        "Namespace",
        "NetworkPolicy",
        "ServiceMonitor",
    ];
    let mut all = [&base[..], &added].concat();
    all.sort_unstable();
    assert_eq!(kinds(&PRODUCTION), all);
    for each in PRODUCTION.iter().filter(|each| each["kind"] != "Namespace") {
        assert_eq!(each["metadata"]["namespace"], "sse-bridge", "{each}");
    }
    judged(&read("deploy/kubernetes/secret.example.yaml"));
}

#[test]
fn a_field_that_is_misspelt_or_of_another_type_is_refused() {
    let good = built(OVERLAY);
    for (right, wrong, of, says) in [
        (
            "terminationGracePeriodSeconds:",
            "terminationGracePeriodSecond:",
            "Deployment",
            "'terminationGracePeriodSecond' was unexpected",
        ),
        (
            "interval: 15s",
            "intervall: 15s",
            "ServiceMonitor",
            "'intervall' was unexpected",
        ),
        (
            "interval: 15s",
            "interval: often",
            "ServiceMonitor",
            "'often' does not match",
        ),
        (
            "minReplicas: 2",
            "minReplicas: two",
            "HorizontalPodAutoscaler",
            "'two' is not of type",
        ),
        (
            "kind: Ingress\n",
            "kind: Ingres\n",
            "Ingres",
            "Couldn't find schema",
        ),
    ] {
        assert_eq!(good.matches(right).count(), 1, "{right}");
        let judged = run(PYTHON, &VALIDATE, &[], &good.replace(right, wrong));
        let said = String::from_utf8_lossy(&judged.stderr);
        assert!(!judged.status.success(), "{wrong} is accepted");
        assert!(said.starts_with(&format!("{of} sse-bridge: ")), "{said}");
        assert!(said.contains(says), "{said}");
        assert!(judged.stdout.is_empty(), "it is passed on");
    }
}

#[test]
fn its_settings_are_some_that_serve_takes_without_a_warning() {
    let config = config();
    assert!(config.auth.mode.checks_tokens());
    // All replicas are to read one queue: they have no names that outlive them.
    assert_eq!(settings().get("RABBITMQ_EVENTS_QUEUE_SCOPE"), None);
    assert_eq!(
        pod()["enableServiceLinks"],
        false,
        "Services would name settings"
    );
}

#[test]
fn no_secret_stands_in_a_manifest_and_each_that_is_needed_is_in_the_example() {
    assert_eq!(of_kind("Secret"), [] as [&Value; 0]);
    let settings = settings();
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.secrecy != Secrecy::Open)
    {
        assert!(!settings.contains_key(setting.name), "{}", setting.name);
    }
    let files = secret_files();
    assert_eq!(files.len(), 3, "{files:?}");

    let volume = &list(&pod()["volumes"])[0];
    let mount = &list(&container()["volumeMounts"])[0];
    assert_eq!(volume["name"], mount["name"]);
    assert_eq!(mount["readOnly"], true);
    let example = &judged(&read("deploy/kubernetes/secret.example.yaml"))[0];
    assert_eq!(volume["secret"]["secretName"], example["metadata"]["name"]);
    let offered = example["stringData"].as_object().expect("texts");
    let needed: BTreeSet<&str> = files
        .values()
        .map(|file| {
            let file = Path::new(file);
            assert_eq!(file.parent(), Some(Path::new(text(&mount["mountPath"]))));
            file.file_name().unwrap().to_str().unwrap()
        })
        .collect();
    assert_eq!(
        offered.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        needed
    );
    assert!(
        offered.values().all(|value| value == "REPLACE-ME"),
        "{example}"
    );
    assert_eq!(
        container().get("env"),
        None,
        "settings are in the ConfigMap, which a test can judge"
    );
}

#[test]
fn a_pod_has_the_time_that_its_drain_takes() {
    let seconds = |value: &Value| value.as_u64().expect("seconds");
    let grace = seconds(&pod()["terminationGracePeriodSeconds"]);
    let before = seconds(&container()["lifecycle"]["preStop"]["sleep"]["seconds"]);
    // It may take a second more than that.
    let drain = config().drain.as_secs() + 1;
    assert!(
        grace > before + drain,
        "{grace} s for {before} s and {drain} s"
    );
    let rolling = &only("Deployment")["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(rolling["maxUnavailable"], 0, "clients need somewhere to go");
}

#[test]
fn ports_agree_from_the_settings_to_the_ingress_and_nothing_for_clients_leads_to_the_admin_listener()
 {
    let config = config();
    let ports: BTreeMap<&str, u64> = list(&container()["ports"])
        .iter()
        .map(|port| {
            (
                text(&port["name"]),
                port["containerPort"].as_u64().expect("a port"),
            )
        })
        .collect();
    let listeners = BTreeMap::from([
        ("http", u64::from(config.http.bind.port())),
        ("admin", u64::from(config.http.admin_bind.port())),
    ]);
    assert_eq!(ports, listeners);
    for listener in [config.http.bind, config.http.admin_bind] {
        assert!(
            listener.ip().is_unspecified(),
            "nobody outside the pod reaches {listener}"
        );
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(
            container()[probe]["httpGet"]["port"],
            "admin",
            "{probe} needs a listener without limits"
        );
    }
    assert_eq!(container()["livenessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(container()["readinessProbe"]["httpGet"]["path"], "/readyz");

    let service = |name: &str| {
        let mut all = of_kind("Service").into_iter();
        let found = all.find(|service| service["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no Service is called {name}"))
    };
    let leads_to = |service: &Value| -> Vec<String> {
        let ports = list(&service["spec"]["ports"]).iter();
        ports
            .map(|port| text(&port["targetPort"]).to_owned())
            .collect()
    };
    assert_eq!(leads_to(service("sse-bridge")), ["http"]);
    assert_eq!(leads_to(service("sse-bridge-admin")), ["admin"]);
    let backend = &only("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"];
    let expected = json!({"service": {"name": "sse-bridge", "port": {"name": "http"}}});
    assert_eq!(backend, &expected);

    // Whom the network lets through to the admin listener.
    let mut to_admin = Vec::new();
    for policy in of_kind("NetworkPolicy") {
        for rule in list(&policy["spec"]["ingress"]) {
            let ports: Vec<&str> = list(&rule["ports"])
                .iter()
                .map(|port| text(&port["port"]))
                .collect();
            if ports.contains(&"admin") {
                to_admin.extend(list(&rule["from"]));
            }
        }
    }
    let prometheus = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    });
    assert_eq!(to_admin, [&prometheus]);
}

#[test]
fn back_ends_publish_from_the_same_namespace_and_from_those_with_a_label_that_the_readme_names() {
    let publishers: Vec<&Value> = of_kind("NetworkPolicy")
        .into_iter()
        .filter(|policy| policy["metadata"]["name"] == "sse-bridge")
        .flat_map(|policy| list(&policy["spec"]["ingress"]))
        .filter(|rule| rule["ports"] == json!([{"port": "http"}]))
        .flat_map(|rule| list(&rule["from"]))
        .collect();
    let label = json!({"sse-bridge/publisher": "true"});
    assert_eq!(
        publishers,
        [
            &json!({"podSelector": {}}),
            &json!({"namespaceSelector": {"matchLabels": label}})
        ]
    );
    let readme = read("deploy/README.md");
    let command = "`kubectl label namespace NAME sse-bridge/publisher=true`";
    assert!(readme.contains(command), "{command}");
}

#[test]
fn prometheus_finds_the_admin_listener_of_each_pod_and_names_the_job_as_the_rules_do() {
    let monitor = &only("ServiceMonitor")["spec"];
    let [endpoint] = &list(&monitor["endpoints"])[..] else {
        panic!("one endpoint is expected")
    };
    let wanted = monitor["selector"]["matchLabels"]
        .as_object()
        .expect("labels");
    let has_all = |service: &&Value| {
        let labels = &service["metadata"]["labels"];
        wanted
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
    };
    let found: Vec<&Value> = of_kind("Service").into_iter().filter(has_all).collect();
    let [service] = found[..] else {
        panic!("one Service is expected, and these are found: {found:?}")
    };
    assert_eq!(list(&service["spec"]["ports"])[0]["name"], endpoint["port"]);
    assert_eq!(service["spec"]["clusterIP"], "None", "each pod by itself");
    let job = &service["metadata"]["labels"][text(&monitor["jobLabel"])];
    assert_eq!(job, "sse-bridge");
    assert!(read("deploy/prometheus/prometheus.yml").contains("job_name: sse-bridge\n"));
}

#[test]
fn every_selector_selects_the_bridges_pods() {
    let labels = &only("Deployment")["spec"]["template"]["metadata"]["labels"];
    let mut selectors = vec![&only("Deployment")["spec"]["selector"]["matchLabels"]];
    selectors.push(&only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]);
    selectors.extend(
        of_kind("Service")
            .into_iter()
            .map(|each| &each["spec"]["selector"]),
    );
    selectors.extend(
        of_kind("NetworkPolicy")
            .into_iter()
            .map(|each| &each["spec"]["podSelector"]["matchLabels"]),
    );
    let spread = list(&pod()["topologySpreadConstraints"]);
    assert_eq!(spread.len(), 2);
    selectors.extend(
        spread
            .iter()
            .map(|each| &each["labelSelector"]["matchLabels"]),
    );
    for selector in selectors {
        let selector = selector.as_object().expect("a selector that selects");
        assert!(!selector.is_empty());
        for (name, value) in selector {
            assert_eq!(labels.get(name), Some(value), "{name}");
        }
    }
}

#[test]
fn the_pod_may_do_as_little_as_the_image_needs() {
    let user = pod()["securityContext"]["runAsUser"]
        .as_u64()
        .expect("a number");
    assert!(
        read("deploy/Dockerfile").contains(&format!("\nUSER {user}:{user}\n")),
        "{user}"
    );
    assert_eq!(
        pod()["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(
        container()["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        })
    );
    assert_eq!(pod()["automountServiceAccountToken"], false);
    for namespace in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_eq!(pod().get(namespace), None);
    }
    let namespace = only("Namespace");
    let level = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    assert_eq!(level, "restricted");
}

#[test]
fn the_autoscaler_goes_by_a_metric_that_the_bridge_has_and_leaves_room_below_the_limit() {
    let scaler = &only("HorizontalPodAutoscaler")["spec"];
    let deployment = only("Deployment");
    assert_eq!(
        scaler["scaleTargetRef"]["name"],
        deployment["metadata"]["name"]
    );
    assert_eq!(
        deployment["spec"].get("replicas"),
        None,
        "each apply would set it back"
    );
    assert!(scaler["minReplicas"].as_u64() >= Some(2));

    let [metric] = &list(&scaler["metrics"])[..] else {
        panic!("one metric is expected")
    };
    let name = text(&metric["pods"]["metric"]["name"]);
    let metrics = Metrics::new().unwrap().render().unwrap();
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(
        metrics.contains(&format!("# TYPE {name} gauge\n")),
        "{name}"
    );
    let rule = read("deploy/kubernetes/prometheus-adapter.values.yaml");
    for part in [format!("seriesQuery: '{name}{{"), format!("as: {name}\n")] {
        assert!(rule.contains(&part), "{part}: {rule}");
    }
    let target: u64 = text(&metric["pods"]["target"]["averageValue"])
        .parse()
        .expect("a number");
    let limit = u64::try_from(config().http.max_connections).unwrap();
    assert!(
        2 * target <= limit,
        "one of two replicas could not take the other's clients"
    );
}
