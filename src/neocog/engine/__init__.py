"""A net as a graph that other engines compute, and the choice of the engine that is fastest here."""
