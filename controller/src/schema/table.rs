//! Pure: the static table of Kubernetes' types and the walk through it.
//!
//! Rows are indices into one text (see `build.rs`); nothing is built at start and nothing lies on the heap.

/// A type of the table, two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

/// A field of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field(u16);

/// How often a field holds its element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Once.
    One,
    /// A list of them.
    List,
    /// A map from strings to them.
    Map,
    /// Its fields stand among those of the parent in JSON, in a message of their own in protobuf.
    Inline,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// A value that has no fields.
    Scalar(Scalar),
    /// An object of another type.
    Object(TypeId),
}

/// Values without fields of their own; the order is that of `build.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scalar {
    /// A string.
    String,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// True or false.
    Bool,
    /// A floating-point number.
    Double,
    /// Base64 in JSON.
    Bytes,
    /// A resource quantity: a string, or a number in what people write.
    Quantity,
    /// A 32-bit integer or a string.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's form of a duration (`1m30s`).
    Duration,
    /// Any object (`runtime.RawExtension`).
    Raw,
    /// `runtime.Unknown`.
    Unknown,
    /// A set of fields (`FieldsV1`).
    Fields,
    /// Any JSON value.
    Json,
    /// A list of strings, wrapped in a message in protobuf.
    Strings,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
}

const SCALARS: [Scalar; 19] = [
    Scalar::String,
    Scalar::Int32,
    Scalar::Int64,
    Scalar::Bool,
    Scalar::Double,
    Scalar::Bytes,
    Scalar::Quantity,
    Scalar::IntOrString,
    Scalar::Time,
    Scalar::MicroTime,
    Scalar::Duration,
    Scalar::Raw,
    Scalar::Unknown,
    Scalar::Fields,
    Scalar::Json,
    Scalar::Strings,
    Scalar::SchemaOrArray,
    Scalar::SchemaOrBool,
    Scalar::SchemaOrStrings,
];

/// How a list merges in server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Nothing is said; the list is replaced whole.
    Unset,
    /// Replaced whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are found by [`Field::list_map_keys`].
    Map,
}

struct TypeRow(u16, u16, u8, bool);
struct FieldRow(u16, u16, u16, u8, u8);
struct ExtraRow {
    default: u16,
    key: u16,
    keys: (u16, u8),
    enums: (u16, u8),
    list: u8,
    patch: u8,
    atomic: bool,
}

include!(concat!(env!("OUT_DIR"), "/schema_table.rs"));

const NONE: u16 = u16::MAX;
/// Kinds that are the same in every group and version.
const COMMON: [&str; 9] = [
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "Table",
    "TableOptions",
    "UpdateOptions",
    "WatchEvent",
];

fn text(id: u16) -> &'static str {
    let (start, length) = SPANS[id as usize];
    &TEXT[start as usize..start as usize + length as usize]
}

fn words((start, length): (u16, u8)) -> impl ExactSizeIterator<Item = &'static str> + Clone {
    WORDS[start as usize..start as usize + length as usize].iter().map(|&id| text(id))
}

/// The type of an API kind; the core group is "". Options kinds are found in every group and version.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    let wanted = [group, "/", version, "/", kind];
    let order = |id: u16| text(id).bytes().cmp(wanted.iter().flat_map(|part| part.bytes()));
    if let Ok(at) = KINDS.binary_search_by(|(id, _)| order(*id)) {
        return Some(TypeId(KINDS[at].1));
    }
    let common = COMMON.contains(&kind) || (kind == "Status" && version == "v1");
    if common { type_named(&format!("meta.v1.{kind}")) } else { None }
}

/// The type of an object by its apiVersion and kind.
pub fn lookup_api_version(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    lookup(group, version, kind)
}

/// A type by its name in the table, such as `core.v1.PodSpec`.
pub fn type_named(name: &str) -> Option<TypeId> {
    TYPES.binary_search_by(|row| text(row.0).cmp(name)).ok().map(|at| TypeId(at as u16))
}

/// Every type, by name.
pub fn types() -> impl Iterator<Item = TypeId> {
    (0..TYPES.len() as u16).map(TypeId)
}

impl TypeId {
    /// The name in the table, such as `core.v1.PodSpec`.
    pub fn name(self) -> &'static str {
        text(TYPES[self.0 as usize].0)
    }

    /// The Go struct's name, such as `PodSpec`.
    pub fn short_name(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// Group, version and kind where the type is an API kind.
    pub fn kinds(self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        KINDS.iter().filter(move |(_, at)| *at == self.0).filter_map(|(id, _)| {
            let (group, rest) = text(*id).split_once('/')?;
            let (version, kind) = rest.split_once('/')?;
            Some((group, version, kind))
        })
    }

    /// Whether server-side apply takes the whole object as one value.
    pub fn is_atomic(self) -> bool {
        TYPES[self.0 as usize].3
    }

    /// Its own fields: by name, inlined ones last.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> + Clone {
        let row = &TYPES[self.0 as usize];
        (row.1..row.1 + u16::from(row.2)).map(Field)
    }

    /// All fields as JSON shows them, inlined ones resolved.
    pub fn json_fields(self) -> Vec<Field> {
        let mut found = Vec::new();
        for field in self.fields() {
            match (field.shape(), field.element()) {
                (Shape::Inline, Element::Object(inner)) => found.extend(inner.json_fields()),
                _ => found.push(field),
            }
        }
        found.sort_by_key(|field| field.name());
        found
    }

    /// A field by its JSON name, also in inlined types.
    pub fn field(self, name: &str) -> Option<Field> {
        let row = &TYPES[self.0 as usize];
        let rows = &FIELDS[row.1 as usize..row.1 as usize + row.2 as usize];
        let own = rows.partition_point(|row| row.4 & 3 != 3);
        if let Ok(at) = rows[..own].binary_search_by(|row| text(row.0).cmp(name)) {
            return Some(Field(row.1 + at as u16));
        }
        (own..rows.len()).find_map(|at| match Field(row.1 + at as u16).element() {
            Element::Object(inner) => inner.field(name),
            Element::Scalar(_) => None,
        })
    }

    /// A field by its protobuf number.
    pub fn field_numbered(self, number: u32) -> Option<Field> {
        self.fields().find(|field| u32::from(field.number()) == number)
    }

    /// The field that has this protobuf or JSON name, and the type behind it if it holds objects.
    pub fn object_at(self, name: &str) -> Option<TypeId> {
        match self.field(name)?.element() {
            Element::Object(inner) => Some(inner),
            Element::Scalar(_) => None,
        }
    }
}

impl Field {
    fn row(self) -> &'static FieldRow {
        &FIELDS[self.0 as usize]
    }

    fn extra(self) -> &'static ExtraRow {
        &EXTRAS[self.row().2 as usize]
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        text(self.row().0)
    }

    /// The number in protobuf.
    pub fn number(self) -> u8 {
        self.row().3
    }

    /// Once, list, map or inlined.
    pub fn shape(self) -> Shape {
        match self.row().4 & 3 {
            0 => Shape::One,
            1 => Shape::List,
            2 => Shape::Map,
            _ => Shape::Inline,
        }
    }

    /// What it holds.
    pub fn element(self) -> Element {
        let row = self.row();
        if row.4 & 4 != 0 { Element::Object(TypeId(row.1)) } else { Element::Scalar(SCALARS[row.1 as usize]) }
    }

    /// Whether the published schema requires it.
    pub fn is_required(self) -> bool {
        self.row().4 & 8 != 0
    }

    /// Whether absent and zero differ: upstream's Go field is a pointer. Elsewhere a zero value is dropped when an object
    /// is read, as upstream's `omitempty` does, and an absent object counts as an empty one.
    pub fn is_pointer(self) -> bool {
        self.row().4 & 16 != 0
    }

    /// The published default as JSON text.
    pub fn default(self) -> Option<&'static str> {
        Some(self.extra().default).filter(|&id| id != NONE).map(text)
    }

    /// The values of the enumeration, sorted; none where there is no enumeration.
    pub fn enum_values(self) -> impl ExactSizeIterator<Item = &'static str> + Clone {
        words(self.extra().enums)
    }

    /// The key by which strategic merge patch finds list items.
    pub fn merge_key(self) -> Option<&'static str> {
        Some(self.extra().key).filter(|&id| id != NONE).map(text)
    }

    /// Whether strategic merge patch merges the list instead of replacing it.
    pub fn patch_merges(self) -> bool {
        self.extra().patch & 1 != 0
    }

    /// Whether strategic merge patch replaces the object.
    pub fn patch_replaces(self) -> bool {
        self.extra().patch & 2 != 0
    }

    /// Whether strategic merge patch keeps only the keys that the patch lists.
    pub fn patch_retains_keys(self) -> bool {
        self.extra().patch & 4 != 0
    }

    /// The strategies as the published schema names them, `merge,retainKeys`; possibly empty.
    pub fn patch_strategy(self) -> String {
        let known = [
            (self.patch_replaces(), "replace"),
            (self.patch_merges(), "merge"),
            (self.patch_retains_keys(), "retainKeys"),
        ];
        known.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(",")
    }

    /// How the list merges in server-side apply.
    pub fn list_type(self) -> ListType {
        match self.extra().list {
            1 => ListType::Atomic,
            2 => ListType::Set,
            3 => ListType::Map,
            _ => ListType::Unset,
        }
    }

    /// The keys of a [`ListType::Map`].
    pub fn list_map_keys(self) -> impl ExactSizeIterator<Item = &'static str> + Clone {
        words(self.extra().keys)
    }

    /// Whether server-side apply takes the map or object in this field as one value.
    pub fn is_atomic_map(self) -> bool {
        self.extra().atomic
            || matches!((self.shape(), self.element()), (Shape::One, Element::Object(inner)) if inner.is_atomic())
    }
}

/// A hash of the table's source.
pub fn source_hash() -> u64 {
    SOURCE_HASH
}

/// The bytes of read-only data that the table takes.
pub fn size() -> usize {
    size_of_val(&TYPES)
        + size_of_val(&FIELDS)
        + size_of_val(&EXTRAS)
        + size_of_val(&KINDS)
        + size_of_val(&SPANS)
        + size_of_val(&WORDS)
        + TEXT.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_small_and_found() {
        assert!(size() < 100_000, "{} bytes", size());
        let deployment = lookup("apps", "v1", "Deployment").unwrap();
        assert_eq!(deployment.name(), "apps.v1.Deployment");
        assert_eq!(deployment.kinds().collect::<Vec<_>>(), [("apps", "v1", "Deployment")]);
        let container = deployment.object_at("spec").and_then(|t| t.object_at("template"));
        let container = container.and_then(|t| t.object_at("spec")).and_then(|t| t.object_at("containers")).unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!((ports.number(), ports.merge_key(), ports.list_type()), (6, Some("containerPort"), ListType::Map));
        assert_eq!(ports.list_map_keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
        let policy = container.field("imagePullPolicy").unwrap();
        assert_eq!(policy.enum_values().collect::<Vec<_>>(), ["Always", "IfNotPresent", "Never"]);
        assert!(lookup("", "v1", "Nope").is_none());
        assert_eq!(lookup("apps", "v1", "DeleteOptions").unwrap().name(), "meta.v1.DeleteOptions");
        assert!(lookup_api_version("v1", "Pod").is_some());
    }

    #[test]
    fn inlined_fields_are_found_by_their_json_name() {
        let volume = type_named("core.v1.Volume").unwrap();
        assert!(volume.field("emptyDir").is_some());
        assert!(volume.field("volumeSource").is_none());
        let rule = type_named("admissionregistration.v1.NamedRuleWithOperations").unwrap();
        assert!(rule.field("apiGroups").is_some());
        assert!(rule.json_fields().iter().any(|field| field.name() == "operations"));
    }
}
