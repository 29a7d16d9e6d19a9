//! TLS to the broker: who is believed, and that nobody else is told the password.

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::harness::{
    Authority, Bridge, Client, Message, PASSWORD, RabbitMq, SOON, eventually, free_port, within,
};

#[tokio::test]
async fn over_tls_everything_works_that_works_without_and_a_link_that_breaks_comes_back() {
    let authority = Authority::new();
    let mut node = RabbitMq::private_with_tls(&authority, &["localhost", "127.0.0.1"]).await;
    let vhost = node.vhost();
    for host in ["localhost", "127.0.0.1"] {
        let setup = Bridge::at(&vhost.tls_url(host, node.second_port()))
            .set("RABBITMQ_CA_FILE", authority.file().display());
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let event = ["publish", "--topic", "team.7.n", "--data", "\"over TLS\""];
        let published = setup.run(&event).await;
        assert_eq!(published.code, Some(0), "{}", published.output);
        assert_eq!(client.data(1).await, ["\"over TLS\""]);
        // Poison goes back over it.
        let producer = vhost.producer().await;
        producer.publish(Message::to("team", "{}")).await;
        bridge
            .wait_metric(
                r#"sse_bridge_dead_letters_total{reason="unaddressed"}"#,
                |count| count == 1.0,
            )
            .await;
        drop(producer);

        let found = setup.run(&["check"]).await;
        assert_eq!(found.code, Some(0), "{}", found.output);
        // In order: RabbitMQ 3.10 can forget its first stream when it is killed soon after.
        node.stop().await;
        node.start().await;
        bridge
            .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
            .await;
        let producer = vhost.producer().await;
        producer
            .publish(Message::to("team.7.n", "\"and again\""))
            .await;
        assert_eq!(client.data(1).await, ["\"and again\""]);
        assert!(!bridge.output().contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_broker_whose_certificate_is_not_believed_is_told_nothing_and_the_reason_is_said() {
    let authority = Authority::new();
    let node = RabbitMq::private_with_tls(&authority, &["rabbit.example"]).await;
    let vhost = node.vhost();
    let stranger = Authority::new();
    let cases = [
        // Another authority, another name, and a port where nobody speaks TLS.
        (&stranger, node.second_port(), "UnknownIssuer"),
        (&authority, node.second_port(), "not valid for name"),
        (&authority, node.port(), "does not speak TLS"),
    ];
    for (believed, port, says) in cases {
        let setup = Bridge::at(&vhost.tls_url("localhost", port))
            .set("RABBITMQ_CA_FILE", believed.file().display());
        let found = setup.run(&["check"]).await;
        assert_eq!(found.code, Some(1), "{}", found.output);
        assert!(found.output.contains(says), "{says}: {}", found.output);
        assert!(
            found.output.contains("RABBITMQ_CA_FILE"),
            "{}",
            found.output
        );
        let bridge = setup.start_unready().await;
        eventually("the log says why", SOON, async || {
            let line = bridge.output();
            let line = line.lines().find(|line| line.contains(says))?;
            assert!(line.contains("\"ERROR\""), "{line}");
            Some(())
        })
        .await;
        assert_eq!(bridge.get("/readyz").await.unwrap().head.status, 503);
        assert!(!bridge.output().contains(PASSWORD));
    }
}

#[tokio::test]
async fn without_a_file_of_its_own_the_broker_is_believed_by_what_this_system_trusts() {
    let authority = Authority::new();
    let node = RabbitMq::private_with_tls(&authority, &["localhost"]).await;
    let vhost = node.vhost();
    let trusting = |authority: &Authority| {
        Bridge::at(&vhost.tls_url("localhost", node.second_port()))
            .set("SSL_CERT_FILE", authority.file().display())
    };
    let bridge = trusting(&authority).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    producer
        .publish(Message::to("team.7.n", "\"over TLS\""))
        .await;
    assert_eq!(client.data(1).await, ["\"over TLS\""]);
    let found = trusting(&authority).run(&["check"]).await;
    assert_eq!(found.code, Some(0), "{}", found.output);

    let found = trusting(&Authority::new()).run(&["check"]).await;
    assert_eq!(found.code, Some(1), "{}", found.output);
    assert!(found.output.contains("UnknownIssuer"), "{}", found.output);
    let nobody = Bridge::at(&vhost.tls_url("localhost", node.second_port()))
        .set("SSL_CERT_FILE", "/missing/authorities.pem")
        .run(&["serve"])
        .await;
    assert_eq!(nobody.code, Some(64), "{}", nobody.output);
    assert!(
        nobody.output.contains("/missing/authorities.pem"),
        "{}",
        nobody.output
    );
}

#[tokio::test]
async fn nothing_is_said_in_the_clear_to_who_answers_where_tls_was_asked_for() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bridge = Bridge::at(&format!("amqps://user:in-the-clear@localhost:{port}/"))
        .set("RABBITMQ_CA_FILE", authority.file().display())
        .start_unready()
        .await;
    for _ in 0..3 {
        let (mut socket, _) = within("a connection", SOON, listener.accept())
            .await
            .unwrap();
        let mut said = vec![0; 6];
        within("a hello", SOON, socket.read_exact(&mut said))
            .await
            .unwrap();
        // A handshake of TLS (RFC 8446 §5.1), and no `AMQP`.
        assert_eq!(said[0], 22, "{said:?}");
    }
    drop(bridge);
}

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let missing = folder.path().join("missing.pem");
    let port = free_port();
    for (url, file, says) in [
        ("amqps", &empty, "has no certificate"),
        ("amqps", &missing, "cannot be read"),
        ("amqp", &empty, "has no certificate"),
    ] {
        let finished = Bridge::at(&format!("{url}://localhost:{port}/"))
            .set("RABBITMQ_CA_FILE", file.display())
            .run(&["serve"])
            .await;
        assert_eq!(finished.code, Some(64), "{}", finished.output);
        let line = format!("RABBITMQ_CA_FILE={}", file.display());
        assert!(finished.output.contains(&line), "{}", finished.output);
        assert!(
            finished.output.contains(says),
            "{says}: {}",
            finished.output
        );
    }
}
