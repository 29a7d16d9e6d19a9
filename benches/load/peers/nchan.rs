//! nchan, an nginx module in C: publishers post to it over HTTP, and it keeps what they posted for those who return.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use super::Peer;
use crate::harness::{SOON, command, eventually, free_port, new_folder};
use crate::orders::{Protocol, Served};
use crate::publisher::{Nchan, Publisher};
use crate::server::Server;
use crate::usage;

const NGINX: &str = "/usr/sbin/nginx";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub fn is_installed() -> bool {
    Path::new(NGINX).exists() && Path::new(MODULE).exists()
}

/// nginx with so many workers, whose clients are all on one channel.
pub async fn nchan(workers: usize) -> Server {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let folder = new_folder("nchan");
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(&folder, address, workers)).expect("a file");
    // nginx writes over its environment, by which the run finds what it left behind: so the kernel ends it with the run.
    let process = command("setpriv")
        .args(["--pdeathsig", "TERM", NGINX, "-e", "stderr", "-p"])
        .arg(&folder)
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .spawn()
        .expect("nginx is installed: `make bench-peers` does it");
    let master = process.id();
    let kept = Peer(process);
    super::listens("nginx", address).await;
    let children = eventually("nginx has its workers", SOON, async || {
        Some(usage::children(master)).filter(|children| children.len() >= workers)
    })
    .await;
    Server {
        name: format!(
            "nchan, {workers} worker{}",
            if workers == 1 { "" } else { "s" }
        ),
        pids: std::iter::once(master).chain(children).collect(),
        address,
        protocol: Protocol::Sse {
            target: "/events".to_owned(),
            served: Served::Head,
        },
        publisher: Publisher::Nchan(Nchan::connect(address, "/publish").await),
        _kept: Box::new(kept),
    }
}

fn configuration(folder: &Path, address: SocketAddr, workers: usize) -> String {
    let folder = folder.display();
    format!(
        "load_module {MODULE};
daemon off;
pid {folder}/pid;
error_log stderr warn;
worker_processes {workers};
worker_rlimit_nofile 20000;
events {{
    worker_connections 19000;
}}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 256M;
    nchan_message_buffer_length 2000;
    nchan_message_timeout 1m;
    server {{
        listen {address} backlog=65535;
        location = /publish {{
            nchan_publisher;
            nchan_channel_id team;
        }}
        location = /events {{
            nchan_subscriber eventsource;
            nchan_channel_id team;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"
    )
}
