//! Names for things that cross the doorway. All of them are opaque to the side that did not choose them.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u64);
    };
}

id!(
    /// An application request; chosen by the driver, unique while the request is open.
    IoId
);
id!(
    /// An operation the engine asked for; chosen by the engine, never reused.
    OpId
);
id!(
    /// An administrator's command; chosen by the driver.
    CmdId
);
id!(
    /// An opener of a volume; chosen by the driver.
    OpenId
);
id!(
    /// A buffer with payload. The engine never looks inside (design rule 1).
    ///
    /// Every buffer handed to the engine carries one reference, which the engine gives back with exactly
    /// one [`Effect::Release`](crate::Effect::Release). The driver keeps a buffer alive on its own account
    /// while an effect that names it is still being carried out.
    BufId
);
