//! Iterators over a [`PVecDeque`](super::PVecDeque), from both ends: over its two slices, one after the other.

use super::PVecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::slice;

/// Elements of a deque; see [`PVecDeque::iter`].
pub struct Iter<'a, T> {
    front: slice::Iter<'a, T>,
    back: slice::Iter<'a, T>,
}

/// Elements of an owned deque, to be changed; see [`PVecDeque::iter_mut`].
pub struct IterMut<'a, T> {
    front: slice::IterMut<'a, T>,
    back: slice::IterMut<'a, T>,
}

impl<'a, T> Iter<'a, T> {
    #[inline]
    pub(super) fn new((front, back): (&'a [T], &'a [T])) -> Self {
        Iter {
            front: front.iter(),
            back: back.iter(),
        }
    }
}

impl<'a, T> IterMut<'a, T> {
    #[inline]
    pub(super) fn new((front, back): (&'a mut [T], &'a mut [T])) -> Self {
        IterMut {
            front: front.iter_mut(),
            back: back.iter_mut(),
        }
    }
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Iter {
            front: self.front.clone(),
            back: self.back.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

macro_rules! two_slices {
    ($($name:ident -> $item:ty;)*) => {$(
        impl<'a, T> Iterator for $name<'a, T> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                match self.front.next() {
                    None => {
                        // What is left is in front from now on: the next call does not come here.
                        std::mem::swap(&mut self.front, &mut self.back);
                        self.front.next()
                    }
                    some => some,
                }
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                let left = self.front.len() + self.back.len();
                (left, Some(left))
            }

            #[inline]
            fn nth(&mut self, n: usize) -> Option<$item> {
                let front = self.front.len();
                if n < front {
                    return self.front.nth(n);
                }
                std::mem::swap(&mut self.front, &mut self.back);
                self.back = Default::default();
                self.front.nth(n - front)
            }

            #[inline]
            fn fold<A, F: FnMut(A, $item) -> A>(self, start: A, mut f: F) -> A {
                let front = self.front.fold(start, &mut f);
                self.back.fold(front, f)
            }

            #[inline]
            fn last(mut self) -> Option<$item> {
                self.next_back()
            }
        }

        impl<'a, T> DoubleEndedIterator for $name<'a, T> {
            #[inline]
            fn next_back(&mut self) -> Option<$item> {
                match self.back.next_back() {
                    None => {
                        std::mem::swap(&mut self.front, &mut self.back);
                        self.back.next_back()
                    }
                    some => some,
                }
            }

            #[inline]
            fn rfold<A, F: FnMut(A, $item) -> A>(self, start: A, mut f: F) -> A {
                let back = self.back.rfold(start, &mut f);
                self.front.rfold(back, f)
            }
        }

        impl<T> ExactSizeIterator for $name<'_, T> {}
        impl<T> FusedIterator for $name<'_, T> {}
    )*};
}

two_slices! {
    Iter -> &'a T;
    IterMut -> &'a mut T;
}

/// Elements of a deque that is used up; see `PVecDeque::into_iter`.
pub struct IntoIter<T>(pub(super) PVecDeque<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl<T> DoubleEndedIterator for IntoIter<T> {
    #[inline]
    fn next_back(&mut self) -> Option<T> {
        self.0.pop_back()
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}
impl<T> FusedIterator for IntoIter<T> {}

impl<T: fmt::Debug> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
