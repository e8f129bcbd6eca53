//! Which folder of the code may import which.

use std::fs;
use std::path::{Path, PathBuf};

/// What goes against the order: a cluster's look asks its managers.
const UPWARD: [(&str, &str); 2] = [("cluster", "backup"), ("cluster", "upgrade")];

/// Files that only tests are made of.
const OF_TESTS: [&str; 4] = ["test", "fixtures", "samples", "model"];

/// Whether only tests are made of it. A folder that is called after restore tests is no test.
fn is_of_tests(path: &str) -> bool {
    let path = path.replace("restoretest", "");
    OF_TESTS.iter().any(|word| path.contains(word))
}

/// The layers as the page names them, the lowest first.
fn layers(page: &str) -> Vec<&str> {
    let order = page.split("Imports point downward only").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
    let mut layers: Vec<&str> = order.split('`').skip(1).step_by(2).collect();
    layers.reverse();
    layers
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// A file without its comments and without the tests at its end.
fn own(code: &str) -> String {
    let is_tests = |piece: &str| {
        let item = piece.lines().find(|line| !line.starts_with('#'));
        item.is_some_and(|item| item.ends_with("tests {"))
    };
    let mut pieces = code.split("\n#[cfg(test)]\n");
    let first = pieces.next().unwrap_or_default();
    let kept: Vec<&str> = [first].into_iter().chain(pieces.take_while(|piece| !is_tests(piece))).collect();
    let lines = kept.iter().flat_map(|piece| piece.lines());
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The parts of `{a, b::{c, d}}`, or the one path that it is.
fn parts(tree: &str) -> Vec<&str> {
    let Some(group) = tree.strip_prefix('{') else { return vec![tree] };
    let (mut depth, mut start, mut found) = (0, 0, vec![]);
    for (at, letter) in group.char_indices() {
        match letter {
            ',' | '}' if depth == 0 => {
                found.push(group[start..at].trim());
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

fn first_word(path: &str) -> &str {
    path.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

/// What a file names of the crate: `crate::adapter::…`, `crate::{api, service::{backup, …}}`.
fn named(code: &str) -> Vec<&str> {
    let mut found = vec![];
    for part in code.split("crate::").skip(1).flat_map(parts) {
        match part.strip_prefix("service::") {
            Some(managers) => found.extend(parts(managers).into_iter().map(first_word)),
            None => found.push(first_word(part)),
        }
    }
    found
}

#[test]
fn imports_point_downward_in_the_order_that_the_architecture_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let layers = layers(&page);
    let height = |name: &str| layers.iter().position(|layer| *layer == name);
    assert!(height("api") < height("cluster") && height("cluster") < height("operator"), "{layers:?}");
    let (mut seen, mut upward) = (0, vec![]);
    for file in files(&root.join("src")) {
        let path = file.strip_prefix(root.join("src")).unwrap().to_str().unwrap();
        let layer = path.trim_start_matches("service/").split('/').next().unwrap_or_default();
        if height(layer).is_none() || !path.ends_with(".rs") || is_of_tests(path) {
            continue;
        }
        let code = own(&fs::read_to_string(&file).unwrap());
        for other in named(&code) {
            seen += usize::from(other != layer && height(other).is_some());
            if height(other) > height(layer) && !UPWARD.contains(&(layer, other)) {
                upward.push(format!("{path} imports {other}"));
            }
        }
    }
    assert!(seen > 500, "imports are found: {seen}");
    assert!(upward.is_empty(), "{upward:#?}");
}

/// What the watches remember of a record is less than the whole, and a write of it would make the rest go.
#[test]
fn an_operation_is_written_whole_by_the_saga_engine_only_which_has_read_it_from_the_api_server() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut writers = vec![];
    for file in files(&src).into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
        let code = own(&fs::read_to_string(&file).unwrap());
        let writes = |line: &str| {
            line.contains(".replace_status(") || (line.contains(".replace(") && line.contains("PostParams"))
        };
        if code.contains("OpenBaoOperation") && code.lines().any(writes) {
            writers.push(file.strip_prefix(&src).unwrap().display().to_string());
        }
    }
    writers.sort();
    assert_eq!(writers, ["service/opslifecycle/drive/pass.rs", "service/opslifecycle/drive/work.rs"]);
}
