//! How a tree of numbered nodes is kept balanced (Adelson-Velsky and Landis 1962): what the areas of an address space and the
//! queues of the scheduler share. The trees keep their nodes, their searches, and what a node knows of the nodes below it.

/// The number that stands for no node: a leaf of height 0.
pub const NIL: u32 = 0;

/// A tree whose nodes have two children, 0 and 1, and a height.
pub trait Balanced {
    /// The children of a node, [`NIL`] where there is none: the one before it first.
    fn children(&self, at: u32) -> [u32; 2];
    /// One of them, to be set.
    fn child_mut(&mut self, at: u32, side: usize) -> &mut u32;
    /// The length of the longest way down from a node, itself included.
    fn height(&self, at: u32) -> u32;
    /// Works out anew, from the children, the height and what else the node knows of its subtree. Whether that changed.
    fn measure(&mut self, at: u32) -> bool;

    /// Restores the balance of a subtree whose two sides are balanced and differ by at most 2. Returns its root.
    fn balance(&mut self, at: u32) -> u32 {
        let children = self.children(at);
        let heights = children.map(|child| self.height(child));
        for side in [0, 1] {
            let other = 1 - side;
            if heights[side] <= heights[other] + 1 {
                continue;
            }
            let below = self.children(children[side]).map(|child| self.height(child));
            if below[other] > below[side] {
                let up = self.rotate(children[side], other);
                *self.child_mut(at, side) = up;
            }
            return self.rotate(at, side);
        }
        self.measure(at);
        at
    }

    /// The child on `side` takes the place of a node, which becomes its child on the other side. Returns it.
    fn rotate(&mut self, at: u32, side: usize) -> u32 {
        let up = self.children(at)[side];
        let between = self.children(up)[1 - side];
        *self.child_mut(at, side) = between;
        *self.child_mut(up, 1 - side) = at;
        self.measure(at);
        self.measure(up);
        up
    }
}
