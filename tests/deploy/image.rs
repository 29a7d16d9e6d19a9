//! The images: what a linter that knows Docker says of how they are made, and that they are made of what there is.

use std::path::Path;
use std::process::Command;

use crate::{output, path, read, run};

const HADOLINT: &str = "target/deploy-venv/bin/hadolint";

/// The one line of the bridge's image that begins with this instruction.
fn line<'a>(dockerfile: &'a str, instruction: &str) -> &'a str {
    let last_stage = dockerfile.rsplit_once("\nFROM ").expect("two stages").1;
    let lines: Vec<&str> = last_stage
        .lines()
        .filter_map(|line| line.strip_prefix(instruction))
        .collect();
    assert_eq!(lines.len(), 1, "{instruction}");
    lines[0].trim()
}

/// The strings of a list in JSON, as instructions take their commands.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_linter_has_nothing_against_how_the_images_are_made() {
    let files = ["deploy/Dockerfile", "web-example/Dockerfile"];
    output(HADOLINT, &files, &[], "");
    let careless = "FROM debian:latest\nRUN apt-get install vim\n";
    let found = run(HADOLINT, &["-"], &[], careless);
    assert!(!found.status.success(), "a linter that takes anything");
}

#[test]
fn the_image_runs_as_nobody_and_asks_itself_how_it_is() {
    let dockerfile = read("deploy/Dockerfile");
    let user = line(&dockerfile, "USER ");
    let number: u32 = user.split(':').next().unwrap().parse().expect("a number");
    assert_ne!(number, 0, "root");

    let entry = command(line(&dockerfile, "ENTRYPOINT "));
    assert_eq!(line(&dockerfile, "CMD "), r#"["serve"]"#);
    let (_, health) = dockerfile.split_once("HEALTHCHECK ").expect("a check");
    let (_, health) = health.split_once("CMD ").expect("its command");
    let health = command(health.lines().next().unwrap());
    assert_eq!(health[..1], entry, "another program");
    assert!(
        line(&dockerfile, "COPY ").ends_with(&format!(" {}", entry[0])),
        "the program is copied where it is started"
    );
    // Understood, and asked of nobody: on a port where nobody can listen.
    let asked = Command::new(env!("CARGO_BIN_EXE_sse-bridge"))
        .args(&health[1..])
        .env_clear()
        .env("ADMIN_BIND", "127.0.0.1:1")
        .output()
        .expect("the bridge starts");
    let says = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1), "{says}");
    assert!(says.contains("http://127.0.0.1:1/healthz"), "{says}");
}

#[test]
fn the_build_is_given_what_it_copies_and_nothing_else() {
    let dockerfile = read("deploy/Dockerfile");
    let mut copied: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| {
            let (sources, _target) = line.rsplit_once(' ').expect("a target");
            sources.split(' ')
        })
        .collect();
    copied.sort_unstable();
    let ignored = read(".dockerignore");
    let mut let_through: Vec<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let_through.sort_unstable();
    assert!(ignored.lines().any(|line| line == "*"), "{ignored}");
    assert_eq!(copied, let_through);
    for source in copied {
        assert!(path(source).exists(), "{source}");
    }
}

#[test]
fn the_web_examples_image_is_sent_nothing_that_was_made_here() {
    let ignored = read("web-example/.dockerignore");
    let is_ignored = |file: &str| {
        ignored.lines().any(|pattern| {
            if let Some(name) = pattern.strip_prefix("**/") {
                return Path::new(file).ends_with(name);
            }
            match pattern.strip_suffix('*') {
                Some(start) => file.starts_with(start),
                None => file == pattern,
            }
        })
    };
    for folder in ["", "lib"] {
        for made in read(&format!("web-example/{folder}/.gitignore")).lines() {
            let file = format!("{folder}{made}");
            let file = file.trim_start_matches('/');
            assert!(is_ignored(file), "{file} is sent");
        }
    }
    for needed in ["package.json", "lib/use-events.ts", "next.config.ts"] {
        assert!(!is_ignored(needed), "{needed} is not sent");
    }
}

#[test]
fn the_layer_of_dependencies_has_a_stand_in_for_every_target_that_the_manifest_names() {
    let dockerfile = read("deploy/Dockerfile");
    let manifest = read("Cargo.toml");
    let benches: Vec<String> = manifest
        .split("\n[[bench]]\n")
        .skip(1)
        .map(|section| {
            let section = section.split("\n[").next().unwrap();
            let value = |key: &str| {
                let line = section.lines().find_map(|line| line.strip_prefix(key))?;
                Some(
                    line.trim_start_matches([' ', '='])
                        .trim_matches('"')
                        .to_owned(),
                )
            };
            value("path")
                .unwrap_or_else(|| format!("benches/{}.rs", value("name").expect("a name")))
        })
        .collect();
    assert!(benches.len() >= 3, "{benches:?}");
    for target in benches
        .iter()
        .map(String::as_str)
        .chain(["src/main.rs", "src/lib.rs"])
    {
        let before_the_sources = dockerfile.split("\nCOPY src ").next().unwrap();
        assert!(before_the_sources.contains(target), "{target}");
    }
    let toolchain = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("FROM rust:"));
    let minimum = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .map(|version| version.trim_matches('"'));
    assert!(
        toolchain
            .unwrap()
            .starts_with(&format!("{}-", minimum.unwrap())),
        "the image is built with the Rust that the manifest asks for"
    );
}
