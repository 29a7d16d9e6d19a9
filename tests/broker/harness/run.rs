//! One run of the test process: its folder, its children, and the promise that neither outlives it.
//!
//! A broker shared by many tests stands in a `static`, which is never dropped, and a test process may be killed
//! outright. So a watchdog, a `sh` in a process group of its own, holds one end of a pipe: when the other end
//! closes, because this process ended in whichever way, it kills every process that carries this run's mark in its
//! environment (grandchildren too) and removes the folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that marks the children of a run.
const MARK: &str = "SSE_BRIDGE_TEST_RUN";

const WATCHDOG: &str = r#"
    cat > /dev/null
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        marked=$(grep -lasF -e "$1" /proc/[0-9]*/environ | cut -d/ -f3)
        [ -n "$marked" ] || break
        kill -9 $marked
        sleep 0.1
    done
    rm -rf -- "$2"
"#;

struct Run {
    mark: String,
    folder: PathBuf,
    /// Holds the pipe that the watchdog waits for.
    _watchdog: Child,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let folder = tempfile::Builder::new()
        .prefix("sse-bridge-tests-")
        .tempdir()
        .expect("a temporary folder")
        .keep();
    let mark = format!("{MARK}={}", folder.display());
    let watchdog = Command::new("sh")
        .args(["-c", WATCHDOG, "sse-bridge-test-watchdog", &mark])
        .arg(&folder)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    raise_descriptor_limit();
    Run {
        mark,
        folder,
        _watchdog: watchdog,
    }
});

/// A command whose process, and all that it starts, ends with this run. Its environment is empty but for `PATH`, so
/// that nothing of the developer's own (`RABBITMQ_URL`, `RUST_LOG`) can decide a test; its folder is empty too, so
/// that no `.env` is found.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let (name, value) = RUN.mark.split_once('=').expect("a mark is NAME=value");
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(name, value)
        .current_dir(new_folder("cwd"))
        .stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A new, empty folder inside this run's own.
pub fn new_folder(name: &str) -> PathBuf {
    let folder = RUN.folder.join(format!("{name}-{}", number()));
    fs::create_dir_all(&folder).expect("a folder inside the run's own");
    folder
}

/// A number that this run has not given out before.
pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A TCP port of loopback that nothing listens on, below the range from which the kernel takes the ports of outgoing
/// connections, so that it is still free when it is needed.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 37));
    loop {
        let candidate = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 22_000;
        let candidate = u16::try_from(candidate).expect("below 32,000");
        if std::net::TcpListener::bind(("127.0.0.1", candidate)).is_ok() {
            return candidate;
        }
    }
}

/// Ten thousand clients are ten thousand descriptors here: takes what the hard limit allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .expect("the soft limit may be raised to the hard one");
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Stdio};

    use super::{MARK, command, new_folder};
    use crate::harness::{SOON, eventually};

    /// How many processes carry the mark of the run with this folder.
    fn marked(folder: &Path) -> usize {
        let mark = format!("{MARK}={}", folder.display());
        let environments = std::fs::read_dir("/proc").expect("/proc").flatten();
        let carries = |environment: Vec<u8>| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark.as_bytes())
        };
        environments
            .filter(|process| std::fs::read(process.path().join("environ")).is_ok_and(carries))
            .count()
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_test_process_that_was_killed() {
        struct Killed(Child);
        impl Drop for Killed {
            fn drop(&mut self) {
                self.0.kill().expect("a child can be killed");
                self.0.wait().expect("a child can be waited for");
            }
        }
        let temporary = new_folder("tmp");
        let process = command(std::env::current_exe().expect("this test has a file"))
            .args(["--exact", "drain::sigint_drains_too"])
            .env("TMPDIR", &temporary)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test starts again");
        let process = Killed(process);
        let folder = eventually(
            "the other run has a folder and a broker",
            SOON,
            async || {
                let folder = std::fs::read_dir(&temporary)
                    .expect("a folder")
                    .flatten()
                    .next()?
                    .path();
                (folder.join("rabbitmq-0/mnesia").exists() && marked(&folder) >= 2)
                    .then_some(folder)
            },
        )
        .await;
        drop(process);
        eventually("its processes and its folder are gone", SOON, async || {
            (marked(&folder) == 0 && !folder.exists()).then_some(())
        })
        .await;
    }
}
