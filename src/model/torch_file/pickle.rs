//! Reads pickles of protocols 2 to 5 as data (Python's `pickletools` documents every opcode).
//!
//! A pickle is a program that may call any function of the machine it is read on. This reader knows
//! the opcodes that make plain values, and of the calls only those that `torch.save` needs for
//! tensors and ordered dictionaries; it imports nothing and calls nothing. What any other call
//! would have made is an opaque value.
//!
//! Time and memory are bounded by a small multiple of the pickle's length, whatever is in it: every
//! opcode makes at most one value, values are never copied, and there are limits on their number,
//! on the stack and on nesting.

mod call;
mod operand;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::model::torch_file::object::{Id, Object, Objects, Opaque};

/// Values of one pickle. A checkpoint of ModernBERT has some hundred thousand, most of them in the
/// tokenizer that it carries along.
const OBJECTS_MAX: usize = 4 << 20;
/// Values on the stack.
const STACK_MAX: usize = 1 << 20;
/// Containers that are open at once.
const DEPTH_MAX: usize = 10_000;
const PROTOCOL_MIN: u8 = 2;
const PROTOCOL_MAX: u8 = 5;

/// Reads a pickle.
///
/// # Errors
/// What is no pickle, what is cut short, opcodes of protocols 0 and 1, and more than the limits.
pub(super) fn read(bytes: Vec<u8>) -> Result<Objects> {
    ensure!(
        u32::try_from(bytes.len()).is_ok(),
        "the pickle is longer than 4 GiB"
    );
    let mut machine = Machine {
        objects: Objects {
            table: Vec::new(),
            bytes,
            root: Id(0),
        },
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    loop {
        let start = machine.at;
        let is_over = machine
            .step()
            .with_context(|| format!("the pickle is damaged at byte {start}"))?;
        if is_over {
            return Ok(machine.objects);
        }
    }
}

struct Machine {
    objects: Objects,
    at: usize,
    stack: Vec<Id>,
    /// Heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Machine {
    /// One opcode; true after the last one.
    fn step(&mut self) -> Result<bool> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => {
                self.objects.root = self.pop()?;
                return Ok(true);
            }
            0x80 => {
                let protocol = self.take(1)?[0];
                ensure!(
                    (PROTOCOL_MIN..=PROTOCOL_MAX).contains(&protocol),
                    "it is of protocol {protocol}; {PROTOCOL_MIN} to {PROTOCOL_MAX} are known"
                );
            }
            0x95 => {
                self.take(8)?; // a frame's length, for readers of streams
            }
            b'(' => {
                ensure!(
                    self.marks.len() < DEPTH_MAX,
                    "it nests more than {DEPTH_MAX} deep"
                );
                self.marks.push(self.stack.len());
            }
            b'0' | b'1' | b'2' | b'q' | b'r' | 0x94 | b'h' | b'j' => self.shuffle(opcode)?,
            b't' | b'l' | b'd' | 0x85..=0x87 | 0x91 => self.gather(opcode)?,
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode)?,
            b'c' | 0x93 | 0x82..=0x84 | b'i' => self.name(opcode)?,
            b'R' | 0x81 | 0x92 | b'o' | b'b' | b'Q' => self.apply(opcode)?,
            _ => {
                let object = self.literal(opcode)?;
                self.push_new(object)?;
            }
        }
        Ok(false)
    }

    /// The opcodes of single values and of empty containers.
    fn literal(&mut self, opcode: u8) -> Result<Object> {
        Ok(match opcode {
            b'N' => Object::None,
            0x88 => Object::Bool(true),
            0x89 => Object::Bool(false),
            b'K' => Object::Integer(self.number(1)? as i64),
            b'M' => Object::Integer(self.number(2)? as i64),
            b'J' => Object::Integer(i64::from(self.number(4)? as u32 as i32)),
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                let bytes = self.take(8)?.try_into().context("eight bytes were taken")?;
                Object::Float(f64::from_be_bytes(bytes))
            }
            0x8c => self.string(1)?,
            b'X' => self.string(4)?,
            0x8d => self.string(8)?,
            b'U' | b'C' => self.bytes(1)?,
            b'T' | b'B' => self.bytes(4)?,
            0x8e | 0x96 => self.bytes(8)?,
            b')' => Object::Tuple(Vec::new()),
            b']' => Object::List(Vec::new()),
            b'}' => Object::Dict(Vec::new()),
            0x8f => Object::Set(Vec::new()),
            _ => bail!("opcode {opcode:#04x} is none that torch.save writes"),
        })
    }

    /// The opcodes that move values about.
    fn shuffle(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => self.push(self.top()?)?,
            b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'q' => self.number(1)? as u32,
                    b'r' => self.number(4)? as u32,
                    _ => self.memo.len() as u32,
                };
                ensure!(self.memo.len() < OBJECTS_MAX, "its memo is too large");
                self.memo.insert(key, self.top()?);
            }
            _ => {
                let key = self.number(if opcode == b'h' { 1 } else { 4 })? as u32;
                let found = self.memo.get(&key).copied();
                self.push(found.with_context(|| format!("its memo has no entry {key}"))?)?;
            }
        }
        Ok(())
    }

    /// The opcodes that make a container of what is on the stack.
    fn gather(&mut self, opcode: u8) -> Result<()> {
        let object = match opcode {
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                Object::Tuple(items)
            }
            b't' => Object::Tuple(self.pop_to_mark()?),
            b'l' => Object::List(self.pop_to_mark()?),
            b'd' => Object::Dict(pairs(&self.pop_to_mark()?)?),
            _ => Object::Set(self.pop_to_mark()?),
        };
        self.push_new(object)
    }

    /// The opcodes that put values into the container below them.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let values = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let container = self.top()?;
        match (opcode, &mut self.objects.table[container.0 as usize]) {
            (b'a' | b'e', Object::List(items)) | (0x90, Object::Set(items)) => items.extend(values),
            (b's' | b'u', Object::Dict(entries)) => entries.extend(pairs(&values)?),
            (_, Object::Opaque(_)) => {} // an unknown container keeps unknown values
            _ => bail!("it puts items into what is no container for them"),
        }
        Ok(())
    }

    /// The opcodes that name a class or a function. Nothing is imported.
    fn name(&mut self, opcode: u8) -> Result<()> {
        let object = match opcode {
            b'c' => Object::Global(self.line()?, self.line()?),
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.pop_to_mark()?;
                let class = self.add(Object::Global(module, name))?;
                Object::Opaque(Opaque::MadeBy(class))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.objects.object(module), self.objects.object(name)) {
                    (Object::Text(module), Object::Text(name)) => {
                        Object::Global(module.clone(), name.clone())
                    }
                    _ => bail!("it names a class by what is no text"),
                }
            }
            _ => {
                self.take(1 << (opcode - 0x82))?;
                Object::Opaque(Opaque::Named("an object of the extension registry"))
            }
        };
        self.push_new(object)
    }

    /// The opcodes that call something or find a storage. Nothing is called.
    fn apply(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let made = self.call(callable, arguments)?;
                self.push(made)
            }
            0x92 => {
                let (_, _, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.push_new(Object::Opaque(Opaque::MadeBy(class)))
            }
            b'o' => {
                let items = self.pop_to_mark()?;
                let &class = items.first().context("it makes an object of no class")?;
                self.push_new(Object::Opaque(Opaque::MadeBy(class)))
            }
            b'b' => {
                self.pop()?;
                let changed = self.top()?;
                let object = &mut self.objects.table[changed.0 as usize];
                // An ordered dictionary takes attributes this way, which are not among its entries.
                if !matches!(object, Object::Dict(_) | Object::Opaque(_)) {
                    *object = Object::Opaque(Opaque::Changed);
                }
                Ok(())
            }
            _ => {
                let id = self.pop()?;
                let object = self.storage(id).unwrap_or(Object::Opaque(Opaque::Named(
                    "an object outside of the pickle that is no storage",
                )));
                self.push_new(object)
            }
        }
    }

    fn add(&mut self, object: Object) -> Result<Id> {
        let table = &mut self.objects.table;
        ensure!(
            table.len() < OBJECTS_MAX,
            "it has more than {OBJECTS_MAX} values"
        );
        table.push(object);
        Ok(Id(table.len() as u32 - 1))
    }

    fn push_new(&mut self, object: Object) -> Result<()> {
        let id = self.add(object)?;
        self.push(id)
    }

    fn push(&mut self, id: Id) -> Result<()> {
        ensure!(self.stack.len() < STACK_MAX, "its stack is too high");
        self.stack.push(id);
        Ok(())
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor..).and_then(<[Id]>::last);
        top.copied().context("its stack is empty")
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("it closes what it did not open")?;
        Ok(self.stack.split_off(mark))
    }
}

/// Keys and values in turn.
fn pairs(values: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = values.as_chunks();
    ensure!(rest.is_empty(), "a key of a dictionary has no value");
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
