from builder.inference.preprocess import Preprocessor as Preprocessor
