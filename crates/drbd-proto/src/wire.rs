//! How a layout is declared: [`wire_struct!`] names each field once, with its offset, and derives
//! both directions from that. Bytes no field covers are padding: zero when sent, ignored when
//! received.

use alloc::vec::Vec;

use crate::ctx::Ctx;

/// A place encoded bytes go to: a reused `Vec<u8>` or a transport's own buffer.
pub trait Put {
    /// Append `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A value with a fixed size on the wire.
pub(crate) trait Wire: Sized {
    /// Size on the wire, bytes.
    const LEN: usize;
    /// Decode from exactly [`Self::LEN`] bytes; the error is the offending value.
    fn load(bytes: &[u8]) -> Result<Self, u64>;
    /// Encode into exactly [`Self::LEN`] bytes.
    fn store(&self, out: &mut [u8]);
}

macro_rules! wire_int {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            const LEN: usize = core::mem::size_of::<$t>();
            #[inline]
            fn load(bytes: &[u8]) -> Result<Self, u64> {
                bytes.first_chunk().map_or(Err(0), |c| Ok(<$t>::from_be_bytes(*c)))
            }
            #[inline]
            fn store(&self, out: &mut [u8]) {
                if let Some(out) = out.first_chunk_mut() {
                    *out = self.to_be_bytes();
                }
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64, i32);

/// A newtype whose wire form is that of its content.
macro_rules! wire_newtype {
    ($($t:ident($inner:ty)),* $(,)?) => {$(
        impl $crate::wire::Wire for $t {
            const LEN: usize = <$inner as $crate::wire::Wire>::LEN;
            #[inline]
            fn load(bytes: &[u8]) -> Result<Self, u64> {
                <$inner as $crate::wire::Wire>::load(bytes).map($t)
            }
            #[inline]
            fn store(&self, out: &mut [u8]) {
                $crate::wire::Wire::store(&self.0, out)
            }
        }
    )*};
}

/// What is wrong with a packet, before the command's name is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The length field is outside the range legal for this command.
    Length { min: u32, max: u32 },
    /// A field holds a value it must not hold.
    Field { field: &'static str, value: u64 },
}

/// The fixed part of one kind of packet.
pub(crate) trait Body: Sized {
    /// Check the header's length field and tell how many bytes precede the bulk payload.
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault>;
    /// Decode the fixed part; `length` is the header's length field, already checked.
    fn load(ctx: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault>;
    /// Encode the fixed part.
    fn store(&self, ctx: &Ctx, out: &mut impl Put);
    /// Size of the fixed part as `store` writes it, bytes.
    fn stored_len(&self, ctx: &Ctx) -> usize;
    /// Size of the bulk payload which follows, bytes.
    #[inline]
    fn bulk_len(&self) -> u32 {
        0
    }
}

impl<T: Body> Body for alloc::boxed::Box<T> {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        T::fixed_len(ctx, length)
    }
    fn load(ctx: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        T::load(ctx, bytes, length).map(alloc::boxed::Box::new)
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        T::store(self, ctx, out)
    }
    fn stored_len(&self, ctx: &Ctx) -> usize {
        T::stored_len(self, ctx)
    }
    fn bulk_len(&self) -> u32 {
        T::bulk_len(self)
    }
}

/// The field at `off`, or what is wrong with it.
#[inline]
pub(crate) fn get<T: Wire>(bytes: &[u8], off: usize, field: &'static str) -> Result<T, Fault> {
    bytes
        .get(off..)
        .and_then(|b| b.get(..T::LEN))
        .map_or(Err(0), T::load)
        .map_err(|value| Fault::Field { field, value })
}

/// Put a field at `off`.
#[inline]
pub(crate) fn set<T: Wire>(out: &mut [u8], off: usize, value: &T) {
    if let Some(out) = out.get_mut(off..).and_then(|b| b.get_mut(..T::LEN)) {
        value.store(out);
    }
}

/// A length field that has exactly one legal value.
#[inline]
pub(crate) fn exactly(length: u32, want: u32) -> Result<u32, Fault> {
    within(length, want, want)
}

/// A length field with a range of legal values.
#[inline]
pub(crate) fn within(length: u32, min: u32, max: u32) -> Result<u32, Fault> {
    if length >= min && length <= max {
        Ok(length)
    } else {
        Err(Fault::Length { min, max })
    }
}

/// The check of packets whose fields can hold any value.
pub(crate) fn fine<T>(_: &T) -> Result<(), Fault> {
    Ok(())
}

/// Declare a structure and its wire layout: `field: Type = offset`, total size in brackets.
/// The plain form has `parse` and `bytes`; with `body` in front it is a whole packet as well, and
/// with `body if check;` one whose fields `check` looks at after decoding.
macro_rules! wire_struct {
    (body $(#[$m:meta])* pub struct $name:ident [$len:literal] {$($rest:tt)*}) => {
        wire_struct! { body if $crate::wire::fine; $(#[$m])* pub struct $name [$len] {$($rest)*} }
    };
    (body if $check:path; $(#[$m:meta])* pub struct $name:ident [$len:literal] {$($rest:tt)*}) => {
        wire_struct! { $(#[$m])* pub struct $name [$len] {$($rest)*} }
        impl $crate::wire::Body for $name {
            #[inline]
            fn fixed_len(_: &$crate::ctx::Ctx, length: u32) -> Result<u32, $crate::wire::Fault> {
                $crate::wire::exactly(length, $len)
            }
            #[inline]
            fn load(
                _: &$crate::ctx::Ctx, bytes: &[u8], _: u32,
            ) -> Result<Self, $crate::wire::Fault> {
                let packet = Self::parse(bytes)?;
                $check(&packet)?;
                Ok(packet)
            }
            #[inline]
            fn store(&self, _: &$crate::ctx::Ctx, out: &mut impl $crate::wire::Put) {
                out.put(&self.bytes());
            }
            #[inline]
            fn stored_len(&self, _: &$crate::ctx::Ctx) -> usize {
                Self::WIRE_LEN
            }
        }
    };
    ($(#[$m:meta])* pub struct $name:ident [$len:literal] {
        $($(#[$fm:meta])* pub $field:ident: $ty:ty = $off:literal,)*
    }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$fm])* pub $field: $ty,)*
        }
        impl $name {
            /// Size of this structure on the wire, bytes.
            pub const WIRE_LEN: usize = {
                $(assert!($off + <$ty as $crate::wire::Wire>::LEN <= $len);)*
                $len
            };
            #[inline]
            pub(crate) fn parse(bytes: &[u8]) -> Result<Self, $crate::wire::Fault> {
                Ok($name {
                    $($field: $crate::wire::get(bytes, $off, stringify!($field))?,)*
                })
            }
            #[inline]
            pub(crate) fn bytes(&self) -> [u8; $len] {
                let mut out = [0u8; Self::WIRE_LEN];
                $($crate::wire::set(&mut out, $off, &self.$field);)*
                out
            }
        }
    };
}
