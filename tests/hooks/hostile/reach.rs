//! Against what scripts reach: files in directories, lines, patterns, documents, the journal and
//! servers.

use super::Hostile;

/// Scripts that reach too far.
pub const REACH: &[Hostile] = &[
    (
        "regex of nested repeats",
        "text.regex_match(\"x\", `((((a{99}){99}){99}){99}){99}`);",
        "too large",
    ),
    (
        "regex of a class, repeated",
        "text.regex_match(\"x\", `\\w{900}`);",
        "too large",
    ),
    (
        "regex that is long",
        "let p = \"\"; p.pad(600, 'a'); text.regex_match(\"x\", p);",
        "512 bytes",
    ),
    (
        "regex nested deeply",
        "let p = \"\"; p.pad(200, '('); text.regex_match(\"x\", p);",
        "cannot be used",
    ),
    (
        "regex that is none",
        "text.regex_find(\"x\", `[`);",
        "cannot be used",
    ),
    (
        "regex with look-around",
        "text.regex_find(\"x\", `(?=a)`);",
        "cannot be used",
    ),
    (
        "regex with a back reference",
        "text.regex_find(\"x\", `(a)\\1`);",
        "cannot be used",
    ),
    (
        "regex in an endless loop",
        "let s = \"\"; s.pad(8000, 'a'); loop { text.regex_match(s, `(a|aa|aaa|b)*c`); }",
        "operations|stopped",
    ),
    (
        "regexes without an end",
        "let n = 0; loop { n += 1; text.regex_match(\"x\", `a{${n % 50}}[a-z]*${n}`); }",
        "operations|stopped",
    ),
    (
        "replacement that grows",
        "let s = \"\"; s.pad(8000, 'a'); text.regex_replace(s, `a`, \"bbbbbbbbbb\");",
        "would have more than",
    ),
    (
        "replacement of groups without an end",
        "let s = \"\"; s.pad(8000, 'a'); let w = \"$0\"; for i in 0..11 { w += w; } text.regex_replace(s, `a+`, w);",
        "too long",
    ),
    (
        "replacement by the whole, often",
        "let s = \"\"; s.pad(8000, 'a'); let w = \"$0$0$0$0$0$0$0$0\"; for i in 0..9 { w += w; if w.len() > 4000 { break; } } text.regex_replace(s, `a+`, w);",
        "too long|would have more",
    ),
    (
        "table of many rows",
        "let s = \"\"; s.pad(4000, \"\\n\"); let t = \"\"; for i in 0..1001 { t += \"a\\n\"; } csv.parse(t);",
        "1000 rows",
    ),
    (
        "table of many fields",
        "let s = \"\"; s.pad(300, ','); csv.parse(s);",
        "256 fields",
    ),
    (
        "separator of two",
        "csv.parse(\"a\", \"::\");",
        "one ASCII character",
    ),
    (
        "separator of none",
        "csv.parse(\"a\", \"\");",
        "one ASCII character",
    ),
    (
        "row of many fields",
        "let a = []; a.pad(300, 1); csv.line(a);",
        "256 fields",
    ),
    (
        "rows in an endless loop",
        "let s = \"\"; s.pad(4000, ','); loop { try { csv.parse(s); } catch { } }",
        "operations|stopped",
    ),
    (
        "JSON nested deeply",
        "let s = \"\"; s.pad(200, '['); json.parse(s);",
        "not JSON|levels",
    ),
    (
        "JSON of 17 levels",
        "json.parse(`[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]`);",
        "levels",
    ),
    (
        "JSON of many items",
        "let s = \"[1\"; for i in 0..1024 { s += \",1\"; } json.parse(s + \"]\");",
        "1024 items",
    ),
    (
        "JSON of many fields",
        "let s = `{`; for i in 0..300 { s += `\"${i}\":1,`; } json.parse(s + `\"x\":1}`);",
        "256 fields",
    ),
    ("JSON that is none", "json.parse(\"{]\");", "not JSON"),
    (
        "value that holds itself",
        "let a = [1]; for i in 0..40 { a = [a]; } json.to_json(a);",
        "deep|nested",
    ),
    (
        "zone that is a path",
        "time.zone(\"../../../etc/passwd\");",
        "unknown time zone",
    ),
    (
        "zone that is long",
        "let z = \"\"; z.pad(8000, 'x'); time.zone(z);",
        "unknown time zone",
    ),
    ("directory above", "folder.mkdir(\"../x\");", "plain names"),
    (
        "directory of the root",
        "folder.mkdir(\"/x\");",
        "plain names",
    ),
    (
        "directory that is hidden",
        "folder.mkdir(\"a/.b\");",
        "hidden",
    ),
    (
        "directories without an end",
        "let p = \"a\"; for i in 0..20 { p += \"/a\"; } folder.mkdir(p);",
        "too deep",
    ),
    (
        "directory with a name of m2y's",
        "folder.mkdir(\"a.meta\");",
        "reserved by m2y",
    ),
    (
        "directory m2y.config",
        "folder.mkdir(\"m2y.config\");",
        "cannot be changed",
    ),
    (
        "directories in an endless loop",
        "let n = 0; loop { n += 1; folder.mkdir(`d${n}`); }",
        "at most 1024|look at",
    ),
    (
        "file in a directory that is not there",
        "folder.write(\"no/x.txt\", \"x\");",
        "not a directory",
    ),
    ("list above", "folder.list(\"../*\");", "plain names"),
    (
        "list of a directory that is not there",
        "folder.list(\"no/*\");",
        "cannot be used",
    ),
    (
        "script in a directory",
        "folder.mkdir(\"a\"); folder.write(\"a/x.rhai\", \"x\");",
        "cannot be changed",
    ),
    (
        "meta in a directory",
        "folder.mkdir(\"a\"); folder.write(\"a/x.meta\", \"x\");",
        "reserved by m2y",
    ),
    (
        "move above another folder",
        "folder.write(\"x.txt\", \"x\"); folder.move_to(\"x.txt\", \"other/../../x\");",
        "plain names",
    ),
    (
        "move to another user",
        "folder.write(\"x.txt\", \"x\"); folder.move_to(\"x.txt\", \"../zhenqiang/photo\");",
        "folder.move_to",
    ),
    (
        "append without an end",
        "let t = \"\"; t.pad(4000, 'x'); loop { folder.append(\"x.txt\", t); }",
        "bytes in all|at most 1024",
    ),
    (
        "append to m2y.config",
        "folder.append(\"m2y.config\", \"x\");",
        "cannot be changed",
    ),
    (
        "append to a meta",
        "folder.append(\"x.meta\", \"x\");",
        "reserved by m2y",
    ),
    (
        "write without an end",
        "let t = \"\"; t.pad(4000, 'x'); let n = 0; loop { n += 1; folder.write(`${n}.txt`, t); }",
        "bytes in all|at most 1024",
    ),
    (
        "lines of a file that is not there",
        "for line in folder.lines(\"no.txt\") { }",
        "is not there",
    ),
    (
        "lines of a key",
        "for line in folder.lines(\"../../privateKey/roland-frei.data\") { }",
        "plain names",
    ),
    (
        "lines in an endless loop",
        "folder.write(\"x.txt\", \"a\\nb\\n\"); loop { for line in folder.lines(\"x.txt\") { } }",
        "operations|stopped",
    ),
    (
        "files that stay open without an end",
        "folder.write(\"x.txt\", \"a\"); let all = []; loop { all.push(folder.lines(\"x.txt\")); }",
        "16 files at the same time",
    ),
    (
        "line that is looked for without an end",
        "folder.write(\"x.txt\", \"a\"); loop { folder.contains_line(\"x.txt\", \"b\"); }",
        "operations|stopped",
    ),
    (
        "values looked at without an end",
        "let n = 0; loop { n += 1; state.get(`k${n}`); }",
        "look at 1024",
    ),
    (
        "files looked at without an end",
        "let n = 0; loop { n += 1; folder.exists(`k${n}`); }",
        "operations|stopped|look at",
    ),
    (
        "lines for the inbox without an end",
        "loop { notify.inbox(\"x\"); }",
        "1024 lines",
    ),
    (
        "request to a host that is not listed",
        "http.get(`http://127.0.0.1:22/`);",
        "requests may not go to",
    ),
    (
        "request to the cloud's own address",
        "http.get(`http://169.254.169.254/latest/meta-data`);",
        "requests may not go to",
    ),
    (
        "request to a file",
        "http.get(`file:///etc/passwd`);",
        "must begin with https",
    ),
    (
        "request with a password",
        "http.get(`http://a:b@example.org/`);",
        "no user name",
    ),
    (
        "request with a line break",
        "http.get(\"http://example.org/\\r\\nX: y\");",
        "requests may not go to|URL",
    ),
    (
        "request with a header that ends it",
        "http.get(`http://example.org/`, #{ \"x\": \"a\\r\\nHost: b\" });",
        "cannot be a header",
    ),
    (
        "request with its own length",
        "http.post(`http://example.org/`, \"x\", #{ \"Content-Length\": \"1000\" });",
        "cannot be a header",
    ),
    (
        "request with many headers",
        "let h = #{}; for n in 0..40 { h[`x${n}`] = \"y\"; } http.get(`http://example.org/`, h);",
        "16 headers",
    ),
    (
        "request with a header of numbers",
        "http.get(`http://example.org/`, #{ x: 1 });",
        "map of texts",
    ),
    (
        "requests without an end",
        "loop { try { http.get(`http://example.org/`); } catch { } }",
        "operations|stopped",
    ),
    (
        "post of a function",
        "http.post(`http://example.org/`, Fn(\"x\"));",
        "http.post",
    ),
    (
        "post of something large",
        "let a = []; for n in 0..20 { let t = \"\"; t.pad(4000, 'x'); a.push(t); } http.post(`http://example.org/`, a);",
        "large|bytes|Length|Size",
    ),
    (
        "url that is long",
        "let u = \"http://example.org/\"; loop { u += u; http.get(u); }",
        "Length of string|requests may not go to",
    ),
    (
        "days of a sender without an end",
        "sender.count(9_223_372_036_854_775_807);",
        "1 to 366",
    ),
    ("days of a sender below one", "sender.bytes(0);", "1 to 366"),
    (
        "sender asked without an end",
        "loop { sender.count(366); sender.first_seen; }",
        "operations|stopped",
    ),
    (
        "digest of a key",
        "hash.sha256(`../../privateKey/roland-frei.data`);",
        "plain names",
    ),
    (
        "digests without an end",
        "folder.write(\"x.txt\", \"a\"); loop { hash.sha256(\"x.txt\"); }",
        "operations|stopped",
    ),
    (
        "tag on a file of one's own",
        "folder.write(\"x.txt\", \"a\"); folder.set_tag(\"x.txt\", \"a\", 1);",
        "only files that a contact sent",
    ),
    (
        "tag on the config",
        "folder.set_tag(\"m2y.config\", \"a\", 1);",
        "only files that a contact sent",
    ),
    (
        "tag on a path out of the folder",
        "folder.set_tag(\"../x/y.data\", \"a\", 1);",
        "plain names",
    ),
    (
        "names in a circle",
        "folder.write(\"t\", \"1\"); quarantine(\"x\", #{ tell: 1 });",
        "only tell",
    ),
];
