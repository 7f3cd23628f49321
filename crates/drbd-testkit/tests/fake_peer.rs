//! A peer that does not speak the protocol as it should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::{Bystander, PATIENCE, file_hash, small, told};
use drbd_proto::packet::ConnectionFeatures;
use drbd_proto::{Ctx, Features, Packet, Stream, VolumeNr, first_packet};
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Result};

/// Connects both streams as node 1 would, if it were node 1.
fn streams(c: &Cluster) -> Result<[TcpStream; 2]> {
    let connect = |stream| -> Result<TcpStream> {
        let mut socket = until("node 1 listens", PATIENCE, || Ok(c.dial(1, 0).ok()))?;
        socket.write_all(&first_packet::encode(stream))?;
        Ok(socket)
    };
    Ok([connect(Stream::Data)?, connect(Stream::Control)?])
}

fn features(min: u32, max: u32) -> Vec<u8> {
    let packet = Packet::ConnectionFeatures(ConnectionFeatures {
        protocol_min: min,
        features: Features::NONE,
        protocol_max: max,
        sender_node_id: 1,
        receiver_node_id: 0,
    });
    let mut wire = Vec::new();
    packet
        .encode(&Ctx::INITIAL, VolumeNr::CONNECTION, &mut wire)
        .unwrap();
    wire
}

/// Reads until the node closes the connection; what it sent.
fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut b) = (Vec::new(), [0; 4096]);
    let end = Instant::now() + PATIENCE;
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    while Instant::now() < end {
        match stream.read(&mut b) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&b[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return all,
        }
    }
    panic!("the node does not close the connection");
}

/// A node with a bystander, waiting for a peer that is not there.
fn waiting(name: &str, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    told(Cluster::new(name, small())?, |c| {
        c.create_md()?;
        c.node_mut(0).start()?;
        let bystander = Bystander::new(c, 0)?;
        c.node(0).adm("up")?;
        let before = file_hash(c.node(0).disk(0));
        test(c)?;
        assert_eq!(file_hash(c.node(0).disk(0)), before, "nothing was written");
        assert!(c.node_mut(0).is_running());
        bystander.check(c.node(0))?;
        // The true peer is welcome.
        c.node_mut(1).start()?;
        c.node(1).adm("up")?;
        if c.node(0).status()?.connection(1) == "StandAlone" {
            c.node(0).adm("connect")?;
        }
        c.wait_connected(PATIENCE)?;
        c.node(0).adm_with("primary", &["--force"])?;
        c.wait_in_sync(PATIENCE)
    })
}

#[test]
fn unknown_protocol_version() -> Result<()> {
    waiting("version", |c| {
        let [mut data, _control] = streams(c)?;
        data.write_all(&features(300, 301))?;
        let answer = until_closed(&mut data);
        assert!(!answer.is_empty(), "the node says what it can");
        c.node(0)
            .wait("gives up", PATIENCE, |s| s.connection(1) != "Connected")?;
        until("the log names the versions", PATIENCE, || {
            Ok((c.node(0).logged("300") && c.node(0).logged("301")).then_some(()))
        })
    })
}

#[test]
fn nonsense_instead_of_the_first_packet() -> Result<()> {
    waiting("nonsense", |c| {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 3]] {
            let mut socket = until("node 1 listens", PATIENCE, || Ok(c.dial(1, 0).ok()))?;
            socket.write_all(bytes)?;
            let _ = socket.shutdown(Shutdown::Write);
            until_closed(&mut socket);
        }
        Ok(())
    })
}

#[test]
fn truncated_and_oversized_packets() -> Result<()> {
    waiting("oversized", |c| {
        let whole = features(86, 124);
        let huge = |length: u32, command: u16| {
            // A header of the oldest kind has 16 bits for the length, the newest has 32.
            let mut b = 0x8620_ec20_u32.to_be_bytes().to_vec();
            b.extend_from_slice(&0_u16.to_be_bytes());
            b.extend_from_slice(&command.to_be_bytes());
            b.extend_from_slice(&length.to_be_bytes());
            b.extend_from_slice(&[0; 4]);
            b
        };
        let mut oversized = whole.clone();
        oversized[6] = 0xff;
        oversized[7] = 0xff;
        let after_features = |tail: Vec<u8>| [whole.clone(), tail].concat();
        let cases: [(&str, Vec<u8>); 7] = [
            ("half a header", whole[..5].to_vec()),
            ("half a packet", whole[..40].to_vec()),
            ("features that are too long", oversized),
            ("another magic number", vec![0xee; 80]),
            (
                "a packet of four gigabytes",
                after_features(huge(u32::MAX, 0x0b)),
            ),
            (
                "data of two gigabytes before the handshake",
                after_features(huge(1 << 31, 0)),
            ),
            ("an unknown packet", after_features(huge(8, 0x7ffe))),
        ];
        for (what, bytes) in cases {
            eprintln!("fake peer: {what}");
            // It may have given up the connection for good.
            if c.node(0).status()?.connection(1) == "StandAlone" {
                c.node(0).adm("connect")?;
            }
            let [mut data, _control] = streams(c)?;
            data.write_all(&bytes)?;
            if what.starts_with("half") {
                let _ = data.shutdown(Shutdown::Write);
            }
            until_closed(&mut data);
            c.node(0).wait("not connected", PATIENCE, |s| {
                s.connection(1) != "Connected"
            })?;
        }
        Ok(())
    })
}
