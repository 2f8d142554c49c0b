//! `csv`: tables as text (RFC 4180).

use rhai::{Array, Dynamic, Engine};

use super::function::{Function, Made, fail};

/// Rows of a table.
const MAX_ROWS: usize = 1_000;

/// Fields of a row.
const MAX_FIELDS: usize = 256;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "csv",
        "csv.parse(text)",
        "The rows of a table, each an array of texts: at most 1,000 rows of 256 fields. A quoted field may contain commas, line breaks, and quotes, each written twice.",
        r#"
let rows = csv.parse("name,amount\nParts,\"1,200\"\n");
assert_eq(rows, [["name", "amount"], ["Parts", "1,200"]]);
"#,
    ),
    Function::new(
        "csv",
        "csv.parse(text, separator)",
        "The same with a different separator, like ; or a tab.",
        r#"
assert_eq(csv.parse("a;b\n1;2", ";"), [["a", "b"], ["1", "2"]]);
"#,
    ),
    Function::new(
        "csv",
        "csv.line(values)",
        "One row as text, with quotes where needed and a line break at the end.",
        r#"
assert_eq(csv.line([meta.from, "1,200", 7]), meta.from + ",\"1,200\",7\n");
folder.append("sent.csv", csv.line([meta.datetime, meta.from, meta.filename]));
"#,
    ),
];

/// `csv` in a script.
#[derive(Clone)]
pub struct Handle;

fn parse(text: &str, separator: &str) -> Made<Array> {
    let call = "csv.parse()";
    let &[separator] = separator.as_bytes() else {
        return Err(fail(format!(
            "{call}: the separator must be one ASCII character"
        )));
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .from_reader(text.as_bytes());
    let mut rows = Array::new();
    for row in reader.records() {
        let row = row.map_err(|e| fail(format!("{call}: {e}")))?;
        if rows.len() >= MAX_ROWS || row.len() > MAX_FIELDS {
            return Err(fail(format!(
                "{call}: a table may have {MAX_ROWS} rows of {MAX_FIELDS} fields"
            )));
        }
        let fields = row.iter().map(|field| field.to_owned().into());
        rows.push(fields.collect::<Array>().into());
    }
    Ok(rows)
}

fn line(values: Array) -> Made<String> {
    let call = "csv.line()";
    if values.len() > MAX_FIELDS {
        return Err(fail(format!("{call}: a row may have {MAX_FIELDS} fields")));
    }
    let fields = values.iter().map(Dynamic::to_string);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let wrong = |e: &dyn std::fmt::Display| fail(format!("{call}: {e}"));
    writer.write_record(fields).map_err(|e| wrong(&e))?;
    let bytes = writer.into_inner().map_err(|e| wrong(&e))?;
    String::from_utf8(bytes).map_err(|e| wrong(&e))
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Csv")
        .register_fn("parse", |_: &mut Handle, text: &str| parse(text, ","))
        .register_fn("parse", |_: &mut Handle, text: &str, separator: &str| {
            parse(text, separator)
        })
        .register_fn("line", |_: &mut Handle, values: Array| line(values));
}
