//! Pure: bytes that client-go v0.35 wrote (`controller/schema/golden`), and bytes that nobody would write.

use super::*;
use crate::schema::{conform, lookup_api_version};

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../../schema/golden/", $name, ".pb")),
            include_str!(concat!("../../../schema/golden/", $name, ".json")),
        )
    };
}

const GOLDEN: [(&str, &[u8], &str); 9] = [
    golden!("deployment"),
    golden!("pod"),
    golden!("service"),
    golden!("secret"),
    golden!("crd"),
    golden!("delete-options"),
    golden!("lease"),
    golden!("hpa"),
    golden!("csr"),
];

/// What two spellings of the same object share: empty structs and zero values of plain fields say nothing.
fn normal(mut object: Map<String, Value>) -> Value {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = lookup_api_version(&text("apiVersion"), &text("kind")).unwrap();
    assert_eq!(conform(id, &mut object).unwrap(), Vec::<String>::new());
    strip(Value::Object(object))
}

fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, strip(v)));
            Value::Object(kept.filter(|(_, v)| !v.as_object().is_some_and(Map::is_empty)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
        other => other,
    }
}

#[test]
fn what_client_go_writes_reads_as_its_json() {
    for (name, bytes, text) in GOLDEN {
        let decoded = decode(bytes, None).unwrap();
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(normal(decoded), normal(expected), "{name}");
    }
}

#[test]
fn broken_bytes_are_errors_not_panics() {
    assert_eq!(decode(b"{}", None), Err(ProtobufError::Prefix));
    let (_, bytes, _) = GOLDEN[1];
    let mut seed = 1_u64;
    for round in 0..400 {
        let mut broken = bytes.to_vec();
        broken.truncate(round % bytes.len());
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            if let Some(byte) = broken.get_mut(at.max(4)) {
                *byte = (seed >> 20) as u8;
            }
        }
        let _ = decode(&broken, None);
    }
}

#[test]
fn depth_is_bounded() {
    let mut bytes = Vec::new();
    for _ in 0..300 {
        // JSONSchemaProps.not = 28, a length-delimited message.
        let mut outer = vec![0xe2, 0x01];
        let mut length = bytes.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    assert_eq!(decode_message(schema_type(), &bytes), Err(ProtobufError::Depth));
}

#[test]
fn durations_read_as_gos() {
    for (nanos, text) in [
        (0, "0s"),
        (1_500_000_000, "1.5s"),
        (3_661_000_000_000, "1h1m1s"),
        (1_500_000, "1.5ms"),
        (-60_000_000_000, "-1m0s"),
    ] {
        assert_eq!(duration(nanos), text);
    }
}
