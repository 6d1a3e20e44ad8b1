//! The source as syn reads it: which file is which module, and what each one names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, ImplItem, Item, ItemMod, ItemStruct, ItemUse, Macro, UseTree};

/// A module's path from the crate's root, which is empty itself.
pub(super) type Module = Vec<String>;

/// A path that a file names, whether in a `use`, in code or in a macro.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// It stands under `#[cfg(test)]`.
    pub(super) in_test: bool,
    /// The module it stands in; below the file's own in an inline module.
    pub(super) module: Module,
    /// The name that a `use` gives it.
    alias: Option<String>,
}

impl Named {
    pub(super) fn text(&self) -> String {
        self.segments.join("::")
    }
}

#[derive(Debug)]
pub(super) struct Source {
    /// From the folder of sources.
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) module: Module,
    pub(super) named: Vec<Named>,
    /// Lines of attributes that allow a lint.
    pub(super) allowed: Vec<usize>,
    /// Each struct and its number of named fields.
    pub(super) structs: Vec<(String, usize)>,
    declared: Vec<(PathBuf, Declared)>,
}

/// A module that a file declares and that has a file of its own.
#[derive(Debug, Clone)]
struct Declared {
    module: Module,
    /// Under `#[cfg(test)]`.
    in_test: bool,
}

#[derive(Debug)]
pub(super) struct House {
    pub(super) sources: Vec<Source>,
    modules: BTreeSet<Module>,
    /// What each module imports or exports again, by the name it has there.
    imports: BTreeMap<Module, BTreeMap<String, Module>>,
}

/// Every source file, by its path from the folder of sources.
pub(crate) fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the source folder can be read") {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    assert!(found.len() > 30, "the sources were not found");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        (path.strip_prefix(&root).expect("below src").to_owned(), text)
    };
    found.into_iter().map(read).collect()
}

impl House {
    /// The program's own.
    pub(super) fn open() -> Self {
        Self::of(sources())
    }

    pub(super) fn of(texts: Vec<(PathBuf, String)>) -> Self {
        let read = |(path, text): (PathBuf, String)| {
            let module = module_of(&path);
            Source::read(path, text, module)
        };
        let mut sources: Vec<_> = texts.into_iter().map(read).collect();
        let declared: BTreeMap<_, _> =
            sources.iter().flat_map(|source| source.declared.clone()).collect();
        for source in &mut sources {
            let Some(Declared { module, .. }) = declared.get(&source.path) else { continue };
            if *module != source.module {
                *source = Source::read(source.path.clone(), source.text.clone(), module.clone());
            }
        }
        let in_tests: Vec<_> = declared.values().filter(|declared| declared.in_test).collect();
        for source in &mut sources {
            let is_test =
                in_tests.iter().any(|declared| source.module.starts_with(&declared.module));
            source.named.iter_mut().for_each(|named| named.in_test |= is_test);
        }
        let modules = sources.iter().map(|source| source.module.clone()).collect();
        let mut house = Self { sources, modules, imports: BTreeMap::new() };
        let mut imports: BTreeMap<Module, BTreeMap<_, _>> = BTreeMap::new();
        for source in &house.sources {
            for named in source.named.iter().filter(|named| named.module == source.module) {
                if let (Some(alias), Some(target)) = (&named.alias, house.absolute(named)) {
                    imports.entry(source.module.clone()).or_default().insert(alias.clone(), target);
                }
            }
        }
        house.imports = imports;
        house
    }

    /// The path from the crate's root; `None` for what is not the crate's own, and for a name that
    /// was imported.
    fn absolute(&self, named: &Named) -> Option<Module> {
        let mut base = named.module.clone();
        let mut rest = named.segments.as_slice();
        let (first, after) = rest.split_first()?;
        match first.as_str() {
            "crate" => (base, rest) = (Vec::new(), after),
            "self" => rest = after,
            "super" => {
                while let Some((_, after)) = rest.split_first().filter(|(it, _)| *it == "super") {
                    base.pop();
                    rest = after;
                }
            }
            child => {
                base.push(child.to_owned());
                if !self.modules.contains(&base) {
                    return None;
                }
                rest = after;
            }
        }
        Some(base.into_iter().chain(rest.iter().cloned()).collect())
    }

    /// The module with a file of its own that has what is named. What a module exports again is
    /// looked for where it comes from.
    pub(super) fn home_of(&self, named: &Named) -> Option<Module> {
        let mut path = self.absolute(named)?;
        // More steps than any chain of exports takes.
        for _ in 0..8 {
            let depth = (0..=path.len())
                .rev()
                .find(|depth| *depth == 0 || self.modules.contains(&path[..*depth]))?;
            let (module, rest) = path.split_at(depth);
            let target = rest.first().and_then(|name| self.imports.get(module)?.get(name));
            match target {
                Some(target) if target.as_slice() != path => {
                    path = target.iter().chain(&rest[1..]).cloned().collect();
                }
                _ => return Some(module.to_vec()),
            }
        }
        None
    }
}

impl Source {
    fn read(path: PathBuf, text: String, module: Module) -> Self {
        let file: File = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{} is not Rust: {error}", path.display()));
        let mut reader = Reader { module: module.clone(), ..Reader::default() };
        reader.within(&file.attrs, |reader| reader.visit_file(&file));
        let place = path.parent().unwrap_or(Path::new("")).to_owned();
        let below = if path.ends_with("mod.rs") || path.ends_with("lib.rs") {
            place.clone()
        } else {
            path.with_extension("")
        };
        let mut declared = Vec::new();
        for (name, file, found) in reader.declared {
            let files = match file {
                Some(file) => vec![place.join(file)],
                None => {
                    vec![below.join(&name).with_extension("rs"), below.join(&name).join("mod.rs")]
                }
            };
            declared.extend(files.into_iter().map(|file| (file, found.clone())));
        }
        let Reader { named, allowed, structs, .. } = reader;
        Self { path, text, module, named, allowed, structs, declared }
    }
}

/// The module that a file has by its place.
fn module_of(path: &Path) -> Module {
    let path = path.with_extension("");
    let mut module: Module = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|name| name == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

#[derive(Default)]
struct Reader {
    module: Module,
    in_test: bool,
    named: Vec<Named>,
    allowed: Vec<usize>,
    structs: Vec<(String, usize)>,
    /// By name, with the file that `#[path]` names.
    declared: Vec<(String, Option<String>, Declared)>,
}

impl Reader {
    fn name(&mut self, segments: Vec<String>, line: usize, alias: Option<String>) {
        let (in_test, module) = (self.in_test, self.module.clone());
        self.named.push(Named { segments, line, in_test, module, alias });
    }

    fn tree(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(prefix, tree)),
            UseTree::Glob(glob) => {
                self.name(prefix.to_vec(), glob.star_token.spans[0].start().line, None);
            }
            UseTree::Name(name) if name.ident == "self" => {
                let line = name.ident.span().start().line;
                self.name(prefix.to_vec(), line, prefix.last().cloned());
            }
            UseTree::Name(name) => {
                let line = name.ident.span().start().line;
                self.name(with(&name.ident), line, Some(name.ident.to_string()));
            }
            UseTree::Rename(name) => {
                let line = name.ident.span().start().line;
                self.name(with(&name.ident), line, Some(name.rename.to_string()));
            }
        }
    }

    /// Paths and attributes in what only a macro understands.
    fn tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Group(group) => {
                    let is_attribute = group.delimiter() == Delimiter::Bracket
                        && at > 0
                        && is_punct(trees.get(at - 1), '#');
                    if is_attribute && allows(group.stream()) {
                        self.allowed.push(group.span_open().start().line);
                    }
                    self.tokens(group.stream());
                    at += 1;
                }
                TokenTree::Ident(first) => {
                    let (line, mut segments) = (first.span().start().line, vec![first.to_string()]);
                    at += 1;
                    while is_punct(trees.get(at), ':')
                        && is_punct(trees.get(at + 1), ':')
                        && let Some(TokenTree::Ident(next)) = trees.get(at + 2)
                    {
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if segments.len() > 1 {
                        self.name(segments, line, None);
                    }
                }
                _ => at += 1,
            }
        }
    }

    fn within(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let outside = self.in_test;
        self.in_test |= attributes.iter().any(is_for_tests);
        visit(self);
        self.in_test = outside;
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(it) => &it.attrs,
            Item::Impl(it) => &it.attrs,
            Item::Mod(it) => &it.attrs,
            Item::Use(it) => &it.attrs,
            Item::Const(it) => &it.attrs,
            Item::Static(it) => &it.attrs,
            Item::Struct(it) => &it.attrs,
            Item::Enum(it) => &it.attrs,
            _ => &Vec::new(),
        };
        self.within(attributes, |reader| visit::visit_item(reader, item));
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Fn(it) => &it.attrs,
            _ => &Vec::new(),
        };
        self.within(attributes, |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        if item.content.is_none() {
            let file = item.attrs.iter().find_map(path_attribute);
            let declared = Declared { module: self.module.clone(), in_test: self.in_test };
            self.declared.push((item.ident.to_string(), file, declared));
        }
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&[], &item.tree);
        visit::visit_item_use(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.structs.push((item.ident.to_string(), item.fields.len()));
        visit::visit_item_struct(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.name(segments, line, None);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let tokens = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.clone(),
            _ => TokenStream::new(),
        };
        if attribute.path().is_ident("allow")
            || (attribute.path().is_ident("cfg_attr") && allows_anywhere(tokens))
        {
            self.allowed.push(attribute.pound_token.spans[0].start().line);
        }
        visit::visit_attribute(self, attribute);
    }
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) = &pair.value else {
        return None;
    };
    attribute.path().is_ident("path").then(|| file.value())
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Whether an attribute with this inside allows a lint.
fn allows(tokens: TokenStream) -> bool {
    let mut tokens = tokens.into_iter();
    match tokens.next() {
        Some(TokenTree::Ident(name)) if name == "allow" => true,
        Some(TokenTree::Ident(name)) if name == "cfg_attr" => allows_anywhere(tokens.collect()),
        _ => false,
    }
}

fn allows_anywhere(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|tree| match tree {
        TokenTree::Ident(name) => name == "allow",
        TokenTree::Group(group) => allows_anywhere(group.stream()),
        _ => false,
    })
}

/// Whether it is `#[cfg(test)]`, or one that tests satisfy.
fn is_for_tests(attribute: &Attribute) -> bool {
    fn asks_for_tests(tokens: TokenStream) -> bool {
        let mut is_denied = false;
        tokens.into_iter().any(|tree| match tree {
            TokenTree::Ident(name) => {
                is_denied = name == "not";
                name == "test"
            }
            TokenTree::Group(group) => !is_denied && asks_for_tests(group.stream()),
            _ => false,
        })
    }
    match &attribute.meta {
        syn::Meta::List(list) if attribute.path().is_ident("cfg") => {
            asks_for_tests(list.tokens.clone())
        }
        _ => false,
    }
}
