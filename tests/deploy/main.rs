//! What stands in `deploy/`, judged by the programs that are made for it and held against what the bridge itself says: the image, what
//! runs around it on one machine, what runs it in a cluster. Starts no container, as that takes an engine and a registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod image;
mod compose;
mod kubernetes;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sse_bridge::config::Secrecy;
use sse_bridge::config::settings::SETTINGS;
use sse_bridge::config::{Config, Sources};

/// A file or folder of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A program that `make setup` brings, run at the root of the repository with this environment and no other.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut child = Command::new(path(program))
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make setup` installs it"));
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that has no use for its input may have ended before it got it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// What it wrote, where it succeeded.
fn output(program: &str, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> String {
    let output = run(program, arguments, environment, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// What `serve` makes of these settings: those that name a file of a secret get one that holds a secret that will do.
fn configured(settings: &BTreeMap<String, String>) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let environment = settings.iter().map(|(name, value)| {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == name || setting.file() == Some(name.as_str()))
            .unwrap_or_else(|| panic!("{name} is no setting"));
        if setting.name == name {
            return (name.clone(), value.clone());
        }
        let secret = match setting.secrecy {
            Secrecy::Password => "amqp://rabbitmq.example",
            Secrecy::Open | Secrecy::Secret => "0123456789abcdef0123456789abcdef",
        };
        let file = folder.path().join(name);
        fs::write(&file, secret).expect("a file");
        (name.clone(), file.display().to_string())
    });
    let sources = Sources {
        environment: environment.collect(),
        env_file: None,
        config_file: None,
    };
    let config = Config::load(&sources).unwrap_or_else(|error| panic!("{error}"));
    // How many descriptors a process may open is this machine's affair.
    let of_this_machine = |warning: &&String| warning.contains("this process may open descriptors");
    let warnings: Vec<_> = config
        .warnings
        .iter()
        .filter(|warning| !of_this_machine(warning))
        .collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

/// The members of a list that must be there.
fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"))
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}
