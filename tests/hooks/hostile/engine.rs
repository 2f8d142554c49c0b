//! Against the engine: scripts that try to end the process, hold it up, or eat its memory.

use super::Hostile;

/// Scripts that try to harm the engine.
pub const ENGINE: &[Hostile] = &[
    ("endless loop", "loop { }", "operations|stopped"),
    (
        "endless while",
        "while true { let x = 1; }",
        "operations|stopped",
    ),
    (
        "endless for",
        "let n = 0; for i in 0..9223372036854775807 { n += 1; }",
        "operations|stopped",
    ),
    (
        "deep recursion",
        "fn f(n) { f(n + 1) } f(0);",
        "Stack overflow",
    ),
    (
        "mutual recursion",
        "fn a(n) { b(n) } fn b(n) { a(n) } a(1);",
        "Stack overflow",
    ),
    (
        "closure chain",
        "let f = || 1; for i in 0..10000 { let g = f; f = || g.call(); } f.call();",
        "Variable not found: g",
    ),
    (
        "pointer chain",
        "fn f(p) { p.call(p) } let p = Fn(\"f\"); p.call(p);",
        "Stack overflow",
    ),
    (
        "recursion through map",
        "fn f(a) { a.map(|x| f([1])) } f([1]);",
        "Stack overflow",
    ),
    (
        "recursion through reduce",
        "fn f(x) { [1].reduce(|s, v| f(v), 0) } f(1);",
        "Stack overflow",
    ),
    (
        "recursion through sort",
        "fn f() { let a = [2, 1]; a.sort(|x, y| { f(); 0 }); } f(); loop { f(); }",
        "operations|stopped",
    ),
    (
        "giant string",
        "let s = \"x\"; loop { s += s; }",
        "Length of string too large",
    ),
    (
        "giant string by interpolation",
        "let s = \"x\"; loop { s = `${s}${s}`; }",
        "Length of string too large",
    ),
    (
        "giant string by padding",
        "let s = \"\"; s.pad(1000000000, \"x\");",
        "Length of string too large",
    ),
    (
        "replace that grows",
        "let s = \"x\"; s.pad(4000, 'x'); let t = s; for i in 0..100 { t.replace(\"x\", s); }",
        "Length of string too large",
    ),
    (
        "replace of nothing",
        "let s = \"x\"; s.pad(4000, 'x'); s.replace(\"\", s); s.replace(\"\", s);",
        "Length of string too large",
    ),
    (
        "giant array",
        "let a = []; loop { a.push(1); }",
        "Size of array",
    ),
    (
        "giant array by padding",
        "let a = []; a.pad(1000000000, 1);",
        "Size of array",
    ),
    (
        "arrays in arrays",
        "let a = [1]; loop { a = [a, a]; }",
        "Size of array",
    ),
    (
        "maps in maps",
        "let m = #{}; loop { m = #{ a: m, b: m }; }",
        "Size of object map",
    ),
    (
        "map by index",
        "let m = #{}; let i = 0; loop { m[`k${i}`] = m; i += 1; }",
        "Size of object map",
    ),
    (
        "map by small index",
        "let m = #{}; let i = 0; loop { m[`k${i}`] = i; i += 1; }",
        "operations|stopped",
    ),
    (
        "curry",
        "let f = Fn(\"x\"); loop { f = f.curry(1); }",
        "Expecting name of a property",
    ),
    ("eval", "eval(\"loop { }\");", "'eval' is disabled"),
    ("sleep", "sleep(3600);", "a hook cannot sleep"),
    (
        "sleep of a fraction",
        "sleep(3600.5);",
        "a hook cannot sleep",
    ),
    (
        "sleep for ever",
        "loop { sleep(1); }",
        "a hook cannot sleep",
    ),
    ("division by zero", "let x = 1 / 0;", "Division by zero"),
    (
        "remainder by zero",
        "let x = 1 % 0;",
        "Modulo division by zero",
    ),
    (
        "overflow",
        "let x = 9223372036854775807 + 1;",
        "Addition overflow",
    ),
    (
        "overflow by power",
        "let x = 10 ** 1000;",
        "Exponential overflow",
    ),
    (
        "smallest number",
        "let x = -9223372036854775808; x = -x; x / -1;",
        "integer overflow",
    ),
    ("out of bounds", "let a = [1]; a[99];", "out of bounds"),
    (
        "sub_string out of bounds then loop",
        "let s = \"ü\".sub_string(-5, 99); loop { s = s.sub_string(0); }",
        "operations|stopped",
    ),
    (
        "unknown function",
        "launch();",
        "Function not found: launch",
    ),
    ("unknown variable", "x + 1", "Variable not found: x"),
    (
        "unknown module",
        "import \"std\" as s;",
        "'import' is a reserved keyword",
    ),
    (
        "file",
        "open_file(\"/etc/passwd\");",
        "Function not found: open_file",
    ),
    (
        "many variables",
        "let a = 1; loop { let a = a; }",
        "operations|stopped",
    ),
    (
        "expression depth",
        "let x = ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))));",
        "exceeds maximum complexity",
    ),
    ("syntax error", "if {", "Expecting a boolean"),
    ("not a script", "\u{7f}ELF\u{1}\u{0}\u{0}", "Unexpected"),
    ("throw of a map", "throw #{ a: 1 };", "Runtime error: #"),
    (
        "throw in a loop",
        "loop { try { throw 1; } catch { } }",
        "operations|stopped",
    ),
    (
        "caught limits",
        "fn f() { try { f(); } catch { f(); } } f();",
        "Stack overflow",
    ),
    (
        "caught loop",
        "loop { try { loop { } } catch { } }",
        "operations|stopped",
    ),
    (
        "slow search",
        "let s = \"\"; s.pad(4000, 'a'); loop { s.index_of(\"aaaaaaaaaaaaaaaaaaaaaaaaaaaab\"); }",
        "operations|stopped",
    ),
    (
        "slow split",
        "let s = \"\"; s.pad(1000, ' '); loop { s.split(' '); }",
        "operations|stopped",
    ),
    (
        "slow sort",
        "let a = []; for i in 0..1000 { a.push(1000 - i); } loop { a.sort(); }",
        "operations|stopped",
    ),
    (
        "parse_json",
        "let s = \"\"; s.pad(4000, '['); parse_json(s);",
        "exceeds maximum complexity",
    ),
    (
        "large range",
        "for x in range(0, 1000000000, 1) { }",
        "operations|stopped",
    ),
    (
        "log flood",
        "loop { log.info(\"x\"); print(\"y\"); }",
        "operations|stopped",
    ),
    (
        "large field",
        "let s = \"\"; s.pad(4000, 'x'); let i = 0; loop { meta[`k${i}`] = s; i += 1; }",
        "all further fields together",
    ),
    (
        "recursion through filter",
        "fn g(x) { [1].filter(Fn(\"g\")).len() > 0 } g(1);",
        "Stack overflow",
    ),
    (
        "map that holds an array many times",
        "let b = []; b.pad(1000, 1); let m = #{}; let i = 0; loop { m[i.to_string()] = b; i += 1; }",
        "held too much memory",
    ),
    (
        "map and array of maps",
        "let b = []; b.pad(700, #{}); for i in 0..250 { b[i] = #{ a: 1 }; } let m = #{}; let i = 0; loop { m[i.to_string()] = b; i += 1; }",
        "held too much memory",
    ),
    (
        "array by index of arrays",
        "let a = []; a.pad(1000, 0); let b = []; b.pad(1000, 1); for i in 0..1000 { a[i] = b; } let c = []; c.pad(1000, 0); for i in 0..1000 { c[i] = a; }",
        "stopped|large|operations",
    ),
    (
        "array of pointers",
        "let a = []; a.pad(1000, Fn(\"q\")); let m = #{}; let i = 0; loop { m[i.to_string()] = a; i += 1; }",
        "held too much memory",
    ),
    (
        "array of handles",
        "let a = []; a.pad(1000, folder); let m = #{}; let i = 0; loop { m[i.to_string()] = a; i += 1; }",
        "held too much memory",
    ),
    (
        "flood of e-mails",
        "loop { notify.email(\"a@b.example\", \"x\", \"y\"); }",
        "at most 32 things",
    ),
    (
        "flood of webhooks",
        "loop { notify.webhook(\"http://a.example/\", #{}); }",
        "at most 32 things",
    ),
    (
        "flood of files for others",
        "folder.write(\"f\", \"x\"); loop { send(#{ to: \"zhenqiang\", folder: \"x\", file: \"f\" }); }",
        "at most 32 things|stopped",
    ),
    (
        "flood of files",
        "let i = 0; loop { folder.write(`f${i}`, \"x\"); i += 1; }",
        "stopped|at most|operations|files",
    ),
    (
        "flood of values",
        "let i = 0; loop { state.set(`k${i}`, i); i += 1; }",
        "keeps|stopped|operations",
    ),
    (
        "value that is large",
        "let a = []; a.pad(1000, \"xxxxxxxx\"); state.set(\"x\", a);",
        "4096|4 KiB|too large|state.set",
    ),
    (
        "path in a name",
        "folder.read(\"../../privateKey/roland-frei.data\");",
        "plain names",
    ),
    ("hidden name", "folder.read(\".quarantine\");", "hidden"),
    (
        "script that writes a script",
        "folder.write(\"hook.rhai\", \"\");",
        "rhai",
    ),
    (
        "script that writes the config",
        "folder.write(\"m2y.config\", \"[OnMeta]\");",
        "m2y.config",
    ),
    (
        "evil pattern",
        "let s = \"\"; s.pad(4000, 'a'); loop { text.matches(s, \"*a*a*a*a*a*a*a*a*a*a*b\"); }",
        "stopped|operations|pattern",
    ),
    (
        "long format of a time",
        "let s = \"\"; s.pad(4000, '%'); time.format(0, s);",
        "time.format",
    ),
    (
        "negative head",
        "folder.head(\"m2y.config\", -1);",
        "folder.head",
    ),
    (
        "reject without a reason",
        "reject(\"\");",
        "the reason must be",
    ),
    (
        "functions that call each other by pointer",
        "fn a(p, q) { q.call(q, p) } a(Fn(\"a\"), Fn(\"a\"));",
        "Stack overflow",
    ),
    (
        "for in for in for",
        "for a in 0..1000 { for b in 0..1000 { for c in 0..1000 { let x = c; } } }",
        "operations|stopped",
    ),
    (
        "string by repetition of pads",
        "let s = \"\"; for i in 0..100 { s.pad(8192, 'x'); s.pad(8193, 'x'); }",
        "Length of string",
    ),
    (
        "array joined with itself",
        "let a = [1]; loop { a.append(a); }",
        "Size of array",
    ),
    (
        "map merged with itself",
        "let m = #{a: 1}; let i = 0; loop { m += #{}; m.set(i.to_string(), m); i += 1; }",
        "Size of|operations|stopped",
    ),
    (
        "switch in a loop",
        "let x = 0; loop { switch x { 0 => x = 1, _ => x = 0 } }",
        "operations",
    ),
];
