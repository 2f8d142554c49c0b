//! What `folder` can do, described.

use crate::{event::Kind, hooks::api::function::Function};

pub(in crate::hooks::api) const FUNCTIONS: &[Function] = &[
    Function::new(
        "folder",
        "folder.list()",
        "The names of all visible files, sorted; at most 1,000. For what you can do with them, see names.",
        r#"
for name in folder.list() {
    if text.extension(name) == "tmp" { folder.remove(name); }
}
"#,
    ),
    Function::new(
        "folder",
        "folder.list(pattern)",
        "The names that match the pattern, sorted; at most 1,000. * stands for any number of characters, ? for one. What comes before the last / is a directory of the folder, and the names in the list begin with it.",
        r#"
assert_eq(folder.list("my*.jpg").to_array(), ["myfoto.jpg"]);
folder.mkdir("2018/12");
folder.rename("myfoto.jpg", "2018/12/sea.jpg");
assert_eq(folder.list("2018/12/*.jpg").to_array(), ["2018/12/sea.jpg"]);
assert_eq(folder.list("2018/12/").len(), 1);
"#,
    ),
    Function::new(
        "folder",
        "folder.older(pattern, seconds)",
        "The names that match the pattern, of files last written more than that many seconds ago, sorted; at most 1,000. Remove those to get the rest.",
        r#"
for name in folder.older("*.tmp", 7 * 86_400) { folder.remove(name); }
assert_eq(folder.older("*", 3600).len(), 0);
"#,
    ),
    Function::new(
        "folder",
        "folder.exists(name)",
        "Whether there is a file with that name.",
        r#"
assert(folder.exists(event.data_file));
assert(!folder.exists("nothing.txt"));
"#,
    ),
    Function::new(
        "folder",
        "folder.size(name)",
        "The size of a file in bytes.",
        r#"
assert_eq(folder.size("abc.txt"), 3);
"#,
    ),
    Function::new(
        "folder",
        "folder.modified(name)",
        "When a file was last written, in seconds since 1970.",
        r#"
let days = (time.now() - folder.modified("abc.txt")) / 86400;
assert_eq(days, 0);
"#,
    ),
    Function::new(
        "folder",
        "folder.mkdir(path)",
        "Creates a directory in the folder, and its parents, unless they exist: plain names with / between them, at most 16. A file in one is named by its path, as in folder.read(\"2026/notes.txt\").",
        r#"
folder.mkdir(time.format(time.parse(meta.datetime), "%Y/%m"));
assert_eq(folder.list("2018/12/*").len(), 0);
"#,
    ),
    Function::new(
        "folder",
        "folder.rename(from, to)",
        "Renames a file, or moves it into an existing directory of the folder; it never overwrites. The .meta of a received file goes with it: x.data and x.meta become photo.jpg and photo.meta. A name that ends with .meta, .data, .done or .failed can only go to a file that already has that ending; scripts and m2y.config cannot be renamed or replaced.",
        r#"
folder.rename(event.data_file, "photo.jpg");
assert(folder.exists("photo.jpg") && folder.exists("photo.meta"));
"#,
    ),
    Function::new(
        "folder",
        "folder.move_to(name, other_folder)",
        "Moves a file to a different m2y-folder of the same user, or into a directory of it, as in \"archive/2026\"; it never overwrites. The .meta of a received file goes with it.",
        r#"
folder.move_to(event.data_file, "archive");
assert(!folder.exists(event.data_file) && !folder.exists(event.meta_file));
"#,
    ),
    Function::new(
        "folder",
        "folder.remove(name)",
        "Removes a file, and the .meta of a received file with it.",
        r#"
folder.remove(event.data_file);
assert(!folder.exists(event.data_file) && !folder.exists(event.meta_file));
"#,
    ),
    Function::new(
        "folder",
        "folder.head(name, n)",
        "The first n bytes of a file as numbers, fewer if it is shorter; at most 512.",
        r#"
assert_eq(folder.head("abc.txt", 2), [0x61, 0x62]);
"#,
    ),
    Function::new(
        "folder",
        "folder.starts_with(name, bytes)",
        "Whether a file begins with these bytes, at most 512: that shows what it is, whatever its name.",
        r#"
if !folder.starts_with("myfoto.jpg", [0xff, 0xd8, 0xff]) { reject("no JPEG"); }
assert(!folder.starts_with("abc.txt", [0x89, 0x50, 0x4e, 0x47]));
"#,
    ),
    Function::new(
        "folder",
        "folder.read(name)",
        "A file of at most 4,096 bytes as text, which must be UTF-8.",
        r#"
assert_eq(folder.read("abc.txt"), "abc");
"#,
    ),
    Function::new(
        "folder",
        "folder.lines(name)",
        "The lines of a text file of any length, for a for loop, without their line endings; each has at most 8,192 bytes. A script has 200,000 operations, enough for some ten thousand lines.",
        r#"
let total = 0;
folder.write("sizes.txt", "3\n4\n");
for line in folder.lines("sizes.txt") { total += parse_int(line); }
assert_eq(total, 7);
"#,
    ),
    Function::new(
        "folder",
        "folder.contains_line(name, text)",
        "Whether one of the lines of a file is this text. It can search millions of lines.",
        r#"
folder.write("allowed.txt", "zhenqiang\npeter-norton\n");
if !folder.contains_line("allowed.txt", meta.from) { reject("you are not on the list"); }
"#,
    ),
    Function::new(
        "folder",
        "folder.write(name, text)",
        "Writes a small text file, and replaces an existing one; no reader ever sees half of it. It cannot write a .meta, .data, .done or .failed, a script or an m2y.config.",
        r#"
folder.write("last.txt", `${meta.from} sent ${meta.filename}`);
assert(folder.read("last.txt").contains(meta.from));
"#,
    ),
    Function::new(
        "folder",
        "folder.append(name, text)",
        "Appends a text of at most 4,096 bytes to a file, however long that is, or to a new one. It is written once for each event. Like folder.write, it cannot write a .meta, .data, .done or .failed, a script or an m2y.config.",
        r#"
folder.append("sent.csv", `${meta.from},${meta.filesize}` + "\n");
folder.append("sent.csv", "end\n");
assert(folder.read("sent.csv").ends_with("\nend\n"));
"#,
    ),
    Function::new(
        "folder",
        "folder.tags(name)",
        "The tags of a file that a contact sent, as a map; they are in the field folderTags of its .meta, which no sender can set.",
        r#"
for name in folder.list("*.data") {
    if folder.tags(name).seen != true { log.info(`${name} is new`); }
}
"#,
    ),
    Function::new(
        "folder",
        "folder.set_tag(name, tag, value)",
        "Stores a value of at most 1 KiB as JSON under a tag, for a file that a contact sent; () removes it. A file may have 32 tags. They stay with the file when it is renamed or moved to a different folder. Only the file's own hooks can set tags before they have accepted it.",
        r#"
folder.set_tag(event.data_file, "album", "sea");
assert_eq(folder.tags(event.data_file).album, "sea");
"#,
    ),
    Function::new(
        "folder",
        "folder.bytes()",
        "The total size in bytes of all visible files; for at most 50,000 files.",
        r#"
if folder.bytes() > 10_000_000_000 { reject("the folder is full"); }
"#,
    ),
    Function::new(
        "folder",
        "folder.bytes_from(sender)",
        "The total size in bytes of all .data that a sender sent, according to their .meta; for at most 5,000 .data. What a contact put at a path of its choice is not included. In a larger folder, keep the sum with state.add.",
        r#"
if folder.bytes_from(meta.from) > 1_000_000_000 { reject("your share is used up"); }
assert_eq(folder.bytes_from("nobody"), 0);
"#,
    ),
    Function::new(
        "folder",
        "folder.reset()",
        "Turns every .failed of the user's own back into a .meta, with its error cleared, to be sent again; returns how many.",
        r#"
let again = folder.reset();
if again > 0 { log.info(`${again} to be sent again`); }
"#,
    )
    .only_at(&[Kind::Startup, Kind::Schedule]),
    Function::new(
        "folder",
        "folder.sweep(days)",
        "Removes partial files that nobody has touched for that many days, and the .meta of files that were refused that long ago; returns how many. What was delivered more than 90 days ago is forgotten too: no sender tries again for that long.",
        r#"
let swept = folder.sweep(7);
"#,
    )
    .only_at(&[Kind::Startup, Kind::Schedule]),
];
