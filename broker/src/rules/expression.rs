//! Expressions: those of CEL, read and evaluated by the crate `cel`. Nothing else here knows that crate.
//!
//! What an expression costs is known when it is read: it has no loops (`map`, `filter`, `all`, `exists`), and only functions whose
//! cost and result grow with their arguments. Each of its nodes is evaluated once at most, so that neither its time nor its memory
//! is more than its length times what a rule looks at of a payload.

use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, SelectExpr, operators};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, DYN_TYPE,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Value};
use serde_json::Value as Json;

use super::aggregate::Kind;
use super::{AGGREGATES_MAX, Aggregates, Fact, Facts, Failed, SOURCE_MAX};
use crate::contain::caught;
use crate::properties::user_properties;

/// Levels of an expression, one inside the other.
const DEPTH_MAX: usize = 64;
/// The same of brackets and of conditions as they are written: for each of them the parser calls itself many times.
const NESTED_MAX: usize = 24;
/// Bytes of an error's text.
const WORDS_MAX: usize = 300;
/// Begins the names that an expression cannot say.
const OWN: char = '@';
/// Behind [`OWN`]: whether there is what follows.
const HAS: &str = "has ";

/// What stands between operands, and calls that are written as such.
const OPERATORS: [&str; 14] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
];
/// Functions, `size(x)`.
const FUNCTIONS: [&str; 7] = ["size", "int", "uint", "double", "string", "bool", "type"];
/// Functions behind what they are of, `x.size()`. None makes more of a text than it was.
const METHODS: [&str; 10] =
    ["size", "contains", "startsWith", "endsWith", "split", "substring", "charAt", "trim", "lowerAscii", "upperAscii"];
/// `math.abs(x)`.
const MATH: [&str; 9] = ["abs", "ceil", "floor", "round", "trunc", "sign", "sqrt", "greatest", "least"];
/// What the last two of those are read as.
const MATH_READ: [&str; 2] = ["math.@max", "math.@min"];
/// `type(x) == int`
const TYPES: [&str; 8] = ["bool", "int", "uint", "double", "string", "list", "map", "null_type"];

/// The functions that expressions have.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::default().with_optional_support(false).with_stdlib();
    let mut added = env.add_extension(cel::extensions::math);
    added = added.and(env.add_extension(cel::extensions::strings));
    for (name, function) in ARITHMETIC.map(|(_, name, function)| (name, function)) {
        added = added.and(env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function));
    }
    if let Err(error) = added {
        tracing::error!("a fault of the program: rules lack functions: {error}");
    }
    Arc::new(env)
});

type Function = for<'b, 'v> fn(Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError>;

/// Operators, and what they become: CEL has no `1.5 * 2`, and whether a sensor says `2` or `2.0` is chance.
const ARITHMETIC: [(&str, &str, Function); 5] = [
    (operators::ADD, "@add", |args| {
        apply(args, |a, b| a + b, |a, b| Ok(a.as_adder().ok_or_else(|| no_number("+", a, b))?.add(b)?.into_owned()))
    }),
    (operators::SUBSTRACT, "@sub", |args| {
        apply(
            args,
            |a, b| a - b,
            |a, b| Ok(a.as_subtractor().ok_or_else(|| no_number("-", a, b))?.sub(b)?.into_owned()),
        )
    }),
    (operators::MULTIPLY, "@mul", |args| {
        apply(
            args,
            |a, b| a * b,
            |a, b| Ok(a.as_multiplier().ok_or_else(|| no_number("*", a, b))?.mul(b)?.into_owned()),
        )
    }),
    (operators::DIVIDE, "@div", |args| {
        apply(args, |a, b| a / b, |a, b| Ok(a.as_divider().ok_or_else(|| no_number("/", a, b))?.div(b)?.into_owned()))
    }),
    (operators::MODULO, "@mod", |args| {
        apply(args, |a, b| a % b, |a, b| Ok(a.as_modder().ok_or_else(|| no_number("%", a, b))?.modulo(b)?.into_owned()))
    }),
];

fn apply<'b, 'v>(
    args: Vec<CowVal<'b, 'v>>,
    mixed: fn(f64, f64) -> f64,
    of_one_kind: impl for<'c> Fn(&'c (dyn Val + 'v), &'c (dyn Val + 'v)) -> Result<Box<dyn Val + 'v>, ExecutionError>,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [left, right] = args.as_slice() else { return Err(ExecutionError::missing_argument_or_target()) };
    let (left, right) = (left.as_ref(), right.as_ref());
    let done = match (left.downcast_ref::<CelDouble>(), right.downcast_ref::<CelDouble>()) {
        (Some(a), None) => whole(right).map(|b| mixed(*a.inner(), b)),
        (None, Some(b)) => whole(left).map(|a| mixed(a, *b.inner())),
        (Some(_), Some(_)) | (None, None) => None,
    };
    match done {
        Some(number) => Ok(CowVal::owned(CelDouble::from(number))),
        None => of_one_kind(left, right).map(CowVal::Owned),
    }
}

#[allow(clippy::cast_precision_loss, reason = "as JSON's own numbers are read by most")]
fn whole(value: &dyn Val) -> Option<f64> {
    let signed = value.downcast_ref::<CelInt>().map(|n| *n.inner() as f64);
    signed.or_else(|| value.downcast_ref::<CelUInt>().map(|n| *n.inner() as f64))
}

fn no_number(operator: &str, left: &dyn Val, right: &dyn Val) -> ExecutionError {
    let types = [left, right].map(|value| value.get_type().name().to_owned());
    ExecutionError::no_such_overload(operator, types.to_vec())
}

/// An expression that has been read and checked.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    tree: Arc<IdedExpr>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

/// Two that are written alike are alike.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.tree == other.tree
    }
}

impl Eq for Expression {}

impl Expression {
    /// Reads one that knows these variables.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(source: &str, variables: &[&str]) -> Result<Self, String> {
        let mut tree = parse(source)?;
        Check { variables }.node(&mut tree, 0)?;
        Ok(Self { source: source.into(), tree: Arc::new(tree) })
    }

    /// Reads one whose aggregates are of messages, which know `of_message`; what surrounds them knows `of_window`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_aggregates(
        source: &str,
        of_message: &[&str],
        of_window: &[&str],
    ) -> Result<(Self, Aggregates), String> {
        let mut tree = parse(source)?;
        let mut lifted = Vec::new();
        lift(&mut tree, 0, &mut lifted)?;
        if lifted.len() > AGGREGATES_MAX {
            return Err(format!("has {} aggregates; a window has {AGGREGATES_MAX} at most", lifted.len()));
        }
        let mut aggregates = Vec::with_capacity(lifted.len());
        let mut names: Vec<String> = of_window.iter().map(|name| (*name).to_owned()).collect();
        for (at, (kind, argument)) in lifted.into_iter().enumerate() {
            let argument = match argument {
                None => None,
                Some(mut tree) => {
                    Check { variables: of_message }.node(&mut tree, 0)?;
                    Some(Self { source: source.into(), tree: Arc::new(tree) })
                }
            };
            aggregates.push((kind, argument));
            names.push(aggregate_name(at));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Check { variables: &names }.node(&mut tree, 0).map_err(|why| outside(&why, of_message))?;
        Ok((Self { source: source.into(), tree: Arc::new(tree) }, aggregates))
    }

    /// Whether it says yes.
    ///
    /// # Errors
    /// It cannot be evaluated, or is neither true nor false.
    pub fn is_true(&self, facts: &dyn Facts) -> Result<bool, Failed> {
        self.evaluate(facts, |context| {
            let value = resolve(&self.tree, context)?;
            let truth = value.downcast_ref::<CelBool>().map(|truth| *truth.inner());
            truth.ok_or_else(|| Failed(format!("is of the type {}, not true or false", value.get_type().name())))
        })
    }

    /// Its value as JSON, of at most so many bytes.
    ///
    /// # Errors
    /// It cannot be evaluated, is no JSON, or larger.
    pub fn json(&self, facts: &dyn Facts, most: usize) -> Result<Vec<u8>, Failed> {
        self.evaluate(facts, |context| {
            let mut out = Out { bytes: Vec::with_capacity(64), most };
            out.tree(&self.tree, context)?;
            Ok(out.bytes)
        })
    }

    fn evaluate<T>(
        &self,
        facts: &dyn Facts,
        act: impl FnOnce(&Context<'_, '_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let resolver = Resolver(facts);
        let mut context = Context::with_env(ENV.clone());
        context.set_variable_resolver(&resolver);
        let done =
            caught(|| act(&context)).unwrap_or_else(|panic| Err(Failed(format!("a fault of the engine: {panic}"))));
        match facts.trouble() {
            Some(trouble) => Err(Failed(trouble)),
            None => done,
        }
    }
}

/// How an aggregate is called where it stood.
pub(super) fn aggregate_name(at: usize) -> String {
    format!("{OWN}{at}")
}

fn parse(source: &str) -> Result<IdedExpr, String> {
    if source.len() > SOURCE_MAX {
        return Err(format!("has {} bytes; an expression has {SOURCE_MAX} at most", source.len()));
    }
    if source.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if nested(source) > NESTED_MAX {
        return Err(format!("has more than {NESTED_MAX} brackets or conditions, one inside the other"));
    }
    let parsed = caught(|| ENV.parser().parse(source)).map_err(|_| "is no expression".to_owned())?;
    parsed.map_err(|errors| match errors.errors.first() {
        Some(first) => format!("is no expression: {}, at character {}", first.msg, first.pos.1),
        None => "is no expression".to_owned(),
    })
}

/// How deep brackets and `?` are at most. Those within texts count as well: that is more than it is.
fn nested(source: &str) -> usize {
    let (mut open, mut deepest, mut conditions) = (0_usize, 0, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'?' => conditions += 1,
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest + conditions
}

/// What is unknown outside of an aggregate, and known inside.
fn outside(why: &str, of_message: &[&str]) -> String {
    let of_message = of_message.iter().any(|name| why.starts_with(&format!("\"{name}\" is not known")));
    if of_message { format!("{why}; what a message has stands in an aggregate: last(...)") } else { why.to_owned() }
}

/// Takes the aggregates out of a tree, and puts their names there.
fn lift(node: &mut IdedExpr, depth: usize, found: &mut Vec<(Kind, Option<IdedExpr>)>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    if let Expr::Call(call) = &mut node.expr
        && call.target.is_none()
        && let Some(kind) = Kind::of(&call.func_name)
    {
        let argument = match (kind, call.args.len()) {
            (Kind::Count, 0) => None,
            (Kind::Count, _) => return Err("has count(...), which takes nothing: count()".to_owned()),
            (_, 1) => call.args.pop(),
            (_, _) => return Err(format!("has {0}() of other than one value: {0}(payload.x)", call.func_name)),
        };
        let name = aggregate_name(found.len());
        found.push((kind, argument));
        node.expr = Expr::Ident(name);
        return Ok(());
    }
    for child in children(&mut node.expr) {
        lift(child, depth + 1, found)?;
    }
    Ok(())
}

fn children(expr: &mut Expr) -> Vec<&mut IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).collect(),
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Select(select) => vec![&mut *select.operand],
        Expr::Map(map) => {
            let entries = map.entries.iter_mut().filter_map(|entry| match &mut entry.expr {
                EntryExpr::MapEntry(entry) => Some([&mut entry.key, &mut entry.value]),
                EntryExpr::StructField(_) => None,
            });
            entries.flatten().collect()
        }
        // Refused by the check.
        Expr::Unspecified | Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => Vec::new(),
    }
}

fn too_deep() -> String {
    format!("is more than {DEPTH_MAX} levels deep")
}

/// Finds what is unknown or may cost too much, and writes some of it otherwise.
struct Check<'a> {
    variables: &'a [&'a str],
}

impl Check<'_> {
    fn node(&self, node: &mut IdedExpr, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        match &mut node.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => return Err("has bytes (b\"...\"), which are no JSON".to_owned()),
            Expr::Literal(_) => return Ok(()),
            Expr::Ident(name) => return self.variable(name),
            Expr::Call(call) if call.target.is_none() && call.func_name == operators::HAS => {
                node.expr = self.has(call)?;
                return Ok(());
            }
            Expr::Call(call) => {
                if self.function(call)? == Target::IsNamespace {
                    return call.args.iter_mut().try_for_each(|argument| self.node(argument, depth + 1));
                }
            }
            Expr::Map(map) => distinct(map)?,
            Expr::List(_) | Expr::Select(_) => {}
            Expr::Comprehension(_) => return Err("has a loop; rules have none".to_owned()),
            Expr::Struct(_) | Expr::Unspecified => return Err("is no expression".to_owned()),
        }
        children(&mut node.expr).into_iter().try_for_each(|child| self.node(child, depth + 1))
    }

    fn variable(&self, name: &str) -> Result<(), String> {
        if self.variables.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        let said: Vec<&str> = self.variables.iter().copied().filter(|name| !name.starts_with(OWN)).collect();
        Err(format!("\"{name}\" is not known here: there are {}", said.join(", ")))
    }

    fn function(&self, call: &mut CallExpr) -> Result<Target, String> {
        let name = call.func_name.as_str();
        let Some(target) = &call.target else {
            if let Some((_, own, _)) = ARITHMETIC.iter().find(|(operator, ..)| *operator == name) {
                call.func_name = (*own).to_owned();
                return Ok(Target::IsValue);
            }
            let known = [&OPERATORS[..], &FUNCTIONS, &MATH_READ].iter().any(|names| names.contains(&name));
            return if known { Ok(Target::IsValue) } else { Err(unknown_function(name)) };
        };
        if matches!(&target.expr, Expr::Ident(target) if target == "math") {
            return if MATH.contains(&name) {
                Ok(Target::IsNamespace)
            } else {
                Err(format!("has no function math.{name}(): there are {}", MATH.join(", ")))
            };
        }
        if METHODS.contains(&name) { Ok(Target::IsValue) } else { Err(unknown_function(name)) }
    }

    /// Asked of the variables themselves, without making a value of all that surrounds it.
    fn has(&self, call: &CallExpr) -> Result<Expr, String> {
        let wrong = || "has has() of something else than a field: has(payload.x)".to_owned();
        let [argument] = call.args.as_slice() else { return Err(wrong()) };
        let mut fields = Vec::new();
        let mut at = &argument.expr;
        while let Expr::Select(SelectExpr { operand, field, test: false }) = at {
            fields.push(field.as_str());
            at = &operand.expr;
        }
        let Expr::Ident(root) = at else { return Err(wrong()) };
        if fields.is_empty() {
            return Err(wrong());
        }
        self.variable(root)?;
        fields.push(root);
        fields.reverse();
        Ok(Expr::Ident(format!("{OWN}{HAS}{}", fields.join("."))))
    }
}

/// What stands before the dot of a call.
#[derive(PartialEq, Eq)]
enum Target {
    IsValue,
    IsNamespace,
}

fn unknown_function(name: &str) -> String {
    match name {
        "map" | "filter" | "all" | "exists" | "exists_one" => {
            format!("has {name}(): rules have no loops, so that their time is bounded")
        }
        "count" | "min" | "max" | "mean" | "last" => {
            format!("has {name}(), which is an aggregate: only `payload` has them, and only where there is a `window`")
        }
        _ => {
            let all: Vec<&str> = FUNCTIONS.iter().chain(&METHODS).copied().chain(["has", "math.abs"]).collect();
            format!("has no function {name}(): there are {} and others (docs/rules.md)", all.join(", "))
        }
    }
}

/// JSON whose keys repeat is read differently by each reader.
fn distinct(map: &MapExpr) -> Result<(), String> {
    let mut seen = Vec::new();
    for key in map.entries.iter().filter_map(|entry| entry_of(&entry.expr)).filter_map(|(key, _)| literal(key)) {
        if seen.contains(&key) {
            return Err(format!("has the key \"{key}\" twice in one object"));
        }
        seen.push(key);
    }
    Ok(())
}

fn entry_of(entry: &EntryExpr) -> Option<(&IdedExpr, &IdedExpr)> {
    match entry {
        EntryExpr::MapEntry(entry) => Some((&entry.key, &entry.value)),
        EntryExpr::StructField(_) => None,
    }
}

fn literal(node: &IdedExpr) -> Option<&str> {
    if let Expr::Literal(LiteralValue::String(text)) = &node.expr { Some(text.inner()) } else { None }
}

/// Variables, as the engine asks for them.
struct Resolver<'f>(&'f dyn Facts);

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(path) = name.strip_prefix(OWN).and_then(|name| name.strip_prefix(HAS)) {
            return Some(CowVal::owned(CelBool::from(self.0.find(path).is_some())));
        }
        self.0.find(name).map(|fact| CowVal::Owned(value_of(fact)))
    }
}

fn value_of(fact: Fact<'_>) -> Box<dyn Val + '_> {
    match fact {
        Fact::Null => Box::new(CelNull),
        Fact::Flag(flag) => Box::new(CelBool::from(flag)),
        Fact::Number(number) => Box::new(CelInt::from(number)),
        Fact::Text(text) => Box::new(CelString::from(text)),
        Fact::Json(json) => of_json(json),
        Fact::Levels(topic) => {
            let levels = topic.split('/').map(|level| Box::new(CelString::from(level)) as Box<dyn Val + '_>);
            Box::new(CelList::from(levels.collect::<Vec<_>>()))
        }
        Fact::Properties(properties) => {
            let mut map = std::collections::HashMap::new();
            for (name, value) in user_properties(properties) {
                let value = || Box::new(CelString::from(value)) as Box<dyn Val + '_>;
                // The first one of a name, as everywhere.
                map.entry(CelMapKey::from(name)).or_insert_with(value);
            }
            Box::new(CelMap::from(map))
        }
    }
}

fn of_json(json: &Json) -> Box<dyn Val + '_> {
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(flag) => Box::new(CelBool::from(*flag)),
        Json::String(text) => Box::new(CelString::from(text.as_str())),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => Box::new(CelInt::from(signed)),
            (None, Some(unsigned)) => Box::new(CelUInt::from(unsigned)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::Array(all) => Box::new(CelList::from(all.iter().map(of_json).collect::<Vec<_>>())),
        Json::Object(all) => {
            let entries = all.iter().map(|(name, value)| (CelMapKey::from(name.as_str()), of_json(value)));
            Box::new(CelMap::from(entries.collect::<std::collections::HashMap<_, _>>()))
        }
    }
}

fn resolve<'e, 'v>(tree: &'e IdedExpr, context: &'e Context<'_, 'v>) -> Result<CowVal<'e, 'v>, Failed> {
    Value::resolve_val(tree, context).map_err(|error| Failed(words(&error.to_string())))
}

/// An error may name what a message says, whole.
fn words(text: &str) -> String {
    let end = (0..=text.len().min(WORDS_MAX)).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// JSON on its way.
struct Out {
    bytes: Vec<u8>,
    most: usize,
}

impl Out {
    /// An object is written as it stands: its fields in the order in which they were written.
    fn tree(&mut self, tree: &IdedExpr, context: &Context<'_, '_>) -> Result<(), Failed> {
        let entries = if let Expr::Map(map) = &tree.expr { Some(&map.entries) } else { None };
        let fields = entries.and_then(|all| all.iter().map(|entry| field_of(&entry.expr)).collect::<Option<Vec<_>>>());
        let Some(fields) = fields else { return self.value(resolve(tree, context)?.as_ref()) };
        self.raw(b"{")?;
        for (at, (name, value)) in fields.into_iter().enumerate() {
            self.name(at, name)?;
            self.tree(value, context)?;
        }
        self.raw(b"}")
    }

    fn value(&mut self, value: &dyn Val) -> Result<(), Failed> {
        if let Some(text) = value.downcast_ref::<CelString>() {
            self.text(text.inner())
        } else if let Some(number) = value.downcast_ref::<CelInt>() {
            self.raw(number.inner().to_string().as_bytes())
        } else if let Some(number) = value.downcast_ref::<CelDouble>() {
            let number = serde_json::Number::from_f64(*number.inner());
            let number = number.ok_or_else(|| Failed("is not a finite number".to_owned()))?;
            self.raw(number.to_string().as_bytes())
        } else if let Some(flag) = value.downcast_ref::<CelBool>() {
            self.raw(if *flag.inner() { b"true" } else { b"false" })
        } else if let Some(number) = value.downcast_ref::<CelUInt>() {
            self.raw(number.inner().to_string().as_bytes())
        } else if value.downcast_ref::<CelNull>().is_some() {
            self.raw(b"null")
        } else if let Some(list) = value.downcast_ref::<CelList>() {
            self.list(list)
        } else if let Some(map) = value.downcast_ref::<CelMap>() {
            self.map(map)
        } else {
            Err(Failed(format!("is of the type {}, which JSON does not have", value.get_type().name())))
        }
    }

    fn list(&mut self, list: &CelList<'_>) -> Result<(), Failed> {
        self.raw(b"[")?;
        for (at, value) in list.inner().iter().enumerate() {
            if at > 0 {
                self.raw(b",")?;
            }
            self.value(value.as_ref())?;
        }
        self.raw(b"]")
    }

    /// In the order of the names: its own is by chance.
    fn map(&mut self, map: &CelMap<'_>) -> Result<(), Failed> {
        let mut all = Vec::with_capacity(map.inner().len());
        for (key, value) in map.inner() {
            let CelMapKey::String(name) = key else {
                return Err(Failed("has a key that is no text, which JSON does not have".to_owned()));
            };
            all.push((name.inner(), value));
        }
        all.sort_unstable_by_key(|(name, _)| *name);
        self.raw(b"{")?;
        for (at, (name, value)) in all.into_iter().enumerate() {
            self.name(at, name)?;
            self.value(value.as_ref())?;
        }
        self.raw(b"}")
    }

    fn name(&mut self, at: usize, name: &str) -> Result<(), Failed> {
        if at > 0 {
            self.raw(b",")?;
        }
        self.text(name)?;
        self.raw(b":")
    }

    fn text(&mut self, text: &str) -> Result<(), Failed> {
        self.room(text.len())?;
        // Writing into memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, text);
        self.room(0)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.room(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn room(&self, more: usize) -> Result<(), Failed> {
        let fits = self.bytes.len() + more <= self.most;
        if fits { Ok(()) } else { Err(Failed(format!("has more than {} bytes", self.most))) }
    }
}

fn field_of(entry: &EntryExpr) -> Option<(&str, &IdedExpr)> {
    entry_of(entry).and_then(|(key, value)| Some((literal(key)?, value)))
}
