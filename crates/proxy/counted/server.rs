//! A PostgreSQL server of a few lines: it lets everybody in, and answers every statement by one and the same row.

use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use wire::message::{backend, frontend, put_frame};

use crate::client::frames;

/// What PostgreSQL 15 reports at a log-in.
const PARAMETERS: [(&str, &str); 13] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.14"),
    ("session_authorization", "app"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];
/// abalance: attribute 3 of table 16384, an int4 as text.
const COLUMN: &[u8] = b"\0\x01abalance\0\0\0\x40\0\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";

/// Starts it, and says where; it answers with `value`, of five digits as pgbench's balances are once they are used.
pub fn start(value: &'static str) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever leaves is served to the end.
            thread::spawn(move || drop(serve(stream, value)));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, value: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut startup = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut startup)?;
    let mut out = Vec::new();
    put_frame(&mut out, backend::AUTHENTICATION, &[0; 4]);
    for (name, value) in PARAMETERS {
        put_frame(&mut out, backend::PARAMETER_STATUS, format!("{name}\0{value}\0").as_bytes());
    }
    put_frame(&mut out, backend::KEY_DATA, &[0, 0, 0, 9, 1, 2, 3, 4]);
    put_frame(&mut out, backend::READY_FOR_QUERY, b"I");
    let row = [b"\0\x01\0\0\0", &[value.len() as u8][..], value.as_bytes()].concat();
    stream.write_all(&out)?;
    out.clear();
    let (mut heard, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        heard.extend_from_slice(&buffer[..read]);
        let mut done = 0;
        for (tag, body) in frames(&heard) {
            answer(tag, &row, &mut out);
            // As PostgreSQL does, all in one piece.
            if matches!(tag, frontend::QUERY | frontend::SYNC) {
                stream.write_all(&out)?;
                out.clear();
            }
            done = body.end;
        }
        heard.drain(..done);
    }
}

fn answer(tag: u8, row: &[u8], out: &mut Vec<u8>) {
    match tag {
        frontend::PARSE => put_frame(out, backend::PARSE_COMPLETE, b""),
        frontend::BIND => put_frame(out, backend::BIND_COMPLETE, b""),
        frontend::DESCRIBE => put_frame(out, backend::ROW_DESCRIPTION, COLUMN),
        frontend::EXECUTE => {
            put_frame(out, backend::DATA_ROW, row);
            put_frame(out, backend::COMMAND_COMPLETE, b"SELECT 1\0");
        }
        frontend::QUERY => {
            for part in [frontend::DESCRIBE, frontend::EXECUTE, frontend::SYNC] {
                answer(part, row, out);
            }
        }
        frontend::SYNC => put_frame(out, backend::READY_FOR_QUERY, b"I"),
        _ => {}
    }
}
