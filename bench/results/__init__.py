"""Read files of measurements; make tables, a picture and a comparison of them."""
