"""Models: built once into a folder, loaded in fp32, with backbone and output layer apart."""
