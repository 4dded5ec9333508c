//! Turns `schema/v1.35.txt` into static tables: indices of two bytes into one text, so that the whole of Kubernetes'
//! types costs some tens of kilobytes of read-only data and nothing at start.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;

const SOURCE: &str = "schema/v1.35.txt";
/// The order is that of `table::Scalar`.
const SCALARS: [&str; 18] = [
    "string",
    "int32",
    "int64",
    "bool",
    "double",
    "bytes",
    "quantity",
    "int-or-string",
    "time",
    "micro-time",
    "duration",
    "raw",
    "unknown",
    "fields",
    "json",
    "strings",
    "schema-or-array",
    "schema-or-bool",
];
const LAST_SCALAR: &str = "schema-or-strings";
const NONE: u16 = u16::MAX;

#[derive(Default)]
struct Texts {
    text: String,
    at: HashMap<String, u16>,
    spans: Vec<(u16, u16)>,
}

impl Texts {
    fn id(&mut self, word: &str) -> u16 {
        if let Some(&id) = self.at.get(word) {
            return id;
        }
        let start = u16::try_from(self.text.len()).expect("the text fits two bytes of offset");
        self.text.push_str(word);
        let id = u16::try_from(self.spans.len()).expect("fewer than 65536 words");
        self.spans.push((start, u16::try_from(word.len()).expect("a word is short")));
        self.at.insert(word.to_owned(), id);
        id
    }
}

struct Field {
    name: String,
    number: u8,
    shape: u8,
    target: String,
    required: bool,
    ptr: bool,
    extra: Extra,
}

#[derive(Default, Clone, PartialEq, Eq, Hash)]
struct Extra {
    default: Option<String>,
    patch: String,
    key: Option<String>,
    list: String,
    atomic_map: bool,
    enums: Vec<String>,
}

struct Type {
    kinds: Vec<String>,
    atomic: bool,
    fields: Vec<Field>,
}

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let source = std::fs::read_to_string(SOURCE).expect("the schema table is in the repository");
    let types = parse(&source);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("schema_table.rs");
    // FNV-1a: it names the OpenAPI documents, which change with the table.
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = source.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let text = format!("{}static SOURCE_HASH: u64 = {hash};\n", render(&types));
    std::fs::write(out, text).expect("OUT_DIR is writable");
}

fn parse(source: &str) -> BTreeMap<String, Type> {
    let mut types = BTreeMap::new();
    let mut current = String::new();
    for line in source.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with("type ") {
            current = words[1].to_owned();
            let kinds = words[2..].iter().filter_map(|word| word.strip_prefix("gvk=")).map(str::to_owned).collect();
            let atomic = words.contains(&"map=atomic");
            types.insert(current.clone(), Type { kinds, atomic, fields: Vec::new() });
        } else {
            types.get_mut(&current).expect("a field follows its type").fields.push(parse_field(&words));
        }
    }
    for row in types.values_mut() {
        row.fields.sort_by(|a, b| (a.shape == 3, &a.name).cmp(&(b.shape == 3, &b.name)));
    }
    types
}

fn parse_field(words: &[&str]) -> Field {
    let (name, inline) = match words[0].strip_prefix('*') {
        Some(name) => (name, true),
        None => (words[0], false),
    };
    let (shape, target) = match words[2].as_bytes()[0] {
        b'[' => (1, &words[2][1..]),
        b'{' => (2, &words[2][1..]),
        _ => (if inline { 3 } else { 0 }, words[2]),
    };
    let mut extra = Extra::default();
    for mark in &words[3..] {
        match mark.split_once('=') {
            Some(("default", value)) => extra.default = Some(value.to_owned()),
            Some(("patch", value)) => extra.patch = value.to_owned(),
            Some(("key", value)) => extra.key = Some(value.to_owned()),
            Some(("list", value)) => extra.list = value.to_owned(),
            Some(("map", "atomic")) => extra.atomic_map = true,
            Some(("enum", value)) => extra.enums = value.split('|').map(str::to_owned).collect(),
            _ => assert!(["required", "ptr"].contains(mark), "unknown mark {mark}"),
        }
    }
    let number = words[1].parse().expect("a field number below 256");
    let (required, ptr) = (words.contains(&"required"), words.contains(&"ptr"));
    Field { name: name.to_owned(), number, shape, target: target.to_owned(), required, ptr, extra }
}

fn render(types: &BTreeMap<String, Type>) -> String {
    let mut texts = Texts::default();
    let index: HashMap<&str, u16> = types.keys().enumerate().map(|(i, name)| (name.as_str(), i as u16)).collect();
    let (mut type_rows, mut field_rows, mut kind_rows) = (String::new(), String::new(), Vec::new());
    let mut extras: Vec<Extra> = vec![Extra::default()];
    let mut fields = 0_usize;
    for (position, (name, row)) in types.iter().enumerate() {
        let id = texts.id(name);
        writeln!(type_rows, "TypeRow({id},{fields},{},{}),", row.fields.len(), row.atomic).expect("a String");
        fields += row.fields.len();
        for kind in &row.kinds {
            kind_rows.push((kind.clone(), position));
        }
        for field in &row.fields {
            let scalar = SCALARS.iter().chain([&LAST_SCALAR]).position(|known| *known == field.target);
            let (is_ref, target) = match scalar {
                Some(scalar) => (false, scalar as u16),
                None => (true, *index.get(field.target.as_str()).unwrap_or_else(|| panic!("type {}", field.target))),
            };
            let extra = extras.iter().position(|known| *known == field.extra).unwrap_or_else(|| {
                extras.push(field.extra.clone());
                extras.len() - 1
            });
            let bits = field.shape | u8::from(is_ref) << 2 | u8::from(field.required) << 3 | u8::from(field.ptr) << 4;
            let name = texts.id(&field.name);
            writeln!(field_rows, "FieldRow({name},{target},{extra},{},{bits}),", field.number).expect("a String");
        }
    }
    kind_rows.sort();
    let mut out = String::new();
    let extra_rows = render_extras(&extras, &mut texts, &mut out);
    let kinds: String = kind_rows.iter().map(|(kind, at)| format!("({},{at}),", texts.id(kind))).collect();
    let spans: String = texts.spans.iter().map(|(start, length)| format!("({start},{length}),")).collect();
    writeln!(out, "static TYPES: [TypeRow; {}] = [\n{type_rows}];", types.len()).expect("a String");
    writeln!(out, "static FIELDS: [FieldRow; {fields}] = [\n{field_rows}];").expect("a String");
    writeln!(out, "static EXTRAS: [ExtraRow; {}] = [\n{extra_rows}];", extras.len()).expect("a String");
    writeln!(out, "static KINDS: [(u16, u16); {}] = [{kinds}];", kind_rows.len()).expect("a String");
    writeln!(out, "static SPANS: [(u16, u16); {}] = [{spans}];", texts.spans.len()).expect("a String");
    writeln!(out, "static TEXT: &str = {:?};", texts.text).expect("a String");
    out
}

fn render_extras(extras: &[Extra], texts: &mut Texts, out: &mut String) -> String {
    let mut words: Vec<u16> = Vec::new();
    let mut rows = String::new();
    for extra in extras {
        let default = extra.default.as_deref().map_or(NONE, |text| texts.id(text));
        let key = extra.key.as_deref().map_or(NONE, |text| texts.id(text));
        let (list, keys) = extra.list.split_once(':').unwrap_or((&extra.list, ""));
        let list = match list {
            "" => 0,
            "atomic" => 1,
            "set" => 2,
            "map" => 3,
            other => panic!("list type {other}"),
        };
        let patch = extra.patch.split(',').fold(0_u8, |bits, word| {
            bits | match word {
                "" => 0,
                "merge" => 1,
                "replace" => 2,
                "retainKeys" => 4,
                other => panic!("patch strategy {other}"),
            }
        });
        let keys_at = words.len();
        words.extend(keys.split(',').filter(|key| !key.is_empty()).map(|key| texts.id(key)));
        let enums_at = words.len();
        words.extend(extra.enums.iter().map(|value| texts.id(value)));
        let (keys_len, enums_len) = (enums_at - keys_at, words.len() - enums_at);
        let atomic = extra.atomic_map;
        writeln!(rows, "ExtraRow{{default:{default},key:{key},keys:({keys_at},{keys_len}),enums:({enums_at},{enums_len}),list:{list},patch:{patch},atomic:{atomic}}},").expect("a String");
    }
    writeln!(out, "static WORDS: [u16; {}] = {words:?};", words.len()).expect("a String");
    rows
}
